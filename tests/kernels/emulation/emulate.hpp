// Runs CUDA kernels on a CPU to find their mistakes, one block after another, every thread of a block a fiber.
//
// A fiber runs until a barrier, a warp function or its end, and then the next one runs: in forward, reverse or shuffled
// order. What this finds: barriers that not all threads reach, shared memory that is read before it is written (poisoned)
// or outside of its arrays (guarded), misaligned vectors, and, by comparing the orders, races between barriers.
#pragma once

// C headers alone: zig would otherwise build its C++ library, which takes it a minute.
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __float_as_int(float value) { int bits; memcpy(&bits, &value, 4); return bits; }
inline double __dmul_rn(double a, double b) { return a * b; }

inline float __fadd_rd(float a, float b) {
    const double exact = (double)a + b;
    const float nearest = (float)exact;
    return nearest > exact ? nextafterf(nearest, -INFINITY) : nearest;
}

inline float emulated_half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
        : ldexpf((float)(exponent ? fraction + 1024 : fraction), (exponent ? exponent : 1) - 25);
    return bits >> 15 ? -size : size;
}

inline unsigned short emulated_float_to_half(float value) {
    const unsigned short sign = __builtin_signbit(value) ? 0x8000 : 0;
    const float size = fabsf(value);
    if (value != value) return 0x7fff;
    if (size == 0.0f) return sign;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    // A unit of the last place, which subnormal numbers share; nearbyintf rounds halves to even.
    const int unit = max(exponent - 11, -24);
    const int count = (int)nearbyintf(ldexpf(size, -unit));
    return sign | (unsigned short)(unit == -24 ? count : ((unit + 24) << 10) + count);
}

#define WIDEN_HALF(value, bits_) ((value) = emulated_half_to_float(bits_))
#define WIDEN_HALVES(low, high, word) \
    ((low) = emulated_half_to_float((word) & 0xffff), (high) = emulated_half_to_float((word) >> 16))
#define NARROW_TO_HALF(bits_, value) ((bits_) = emulated_float_to_half(value))

// A texture of float4, as tex2D reads it: clamped, linear, its fractions rounded to 8 bits.
struct Texture { const float4* texels; int width, height; };
typedef const Texture* cudaTextureObject_t;

template <class Texel>
inline Texel tex2D(cudaTextureObject_t texture, float x, float y) {
    const auto split = [](float at, int size, int& low, int& high) {
        const float from = fminf(fmaxf(at, 0.0f), (float)size) - 0.5f, below = floorf(from);
        low = max((int)below, 0);
        high = min((int)below + 1, size - 1);
        return roundf((from - below) * 256.0f) / 256.0f;
    };
    int x0, x1, y0, y1;
    const float right = split(x, texture->width, x0, x1), down = split(y, texture->height, y0, y1);
    const auto mix = [](float weight, float4 a, float4 b) {
        const float rest = 1.0f - weight;
        return float4{rest * a.x + weight * b.x, rest * a.y + weight * b.y, rest * a.z + weight * b.z, rest * a.w + weight * b.w};
    };
    const float4 *upper = texture->texels + (long long)y0 * texture->width, *lower = texture->texels + (long long)y1 * texture->width;
    return mix(down, mix(right, upper[x0], upper[x1]), mix(right, lower[x0], lower[x1]));
}

namespace emulation {

constexpr int MOST_THREADS = 1024;
constexpr size_t STACK = 128 * 1024;
constexpr size_t ARENA = 512 * 1024;
constexpr size_t SHARED_LIMIT = 48 * 1024;
constexpr size_t GUARD = 1024;
constexpr unsigned char POISON = 0xff;  // not a number in float, double and half; -1 in integers

enum State { READY, AT_BARRIER, AT_WARP, FINISHED };

struct Fiber {
    ucontext_t start;
    sigjmp_buf resume;
    bool started;
    State state;
    int line;
    unsigned mask, operations;
    uint3 thread;
    long long posted[2];
};

struct SharedArray { const void* key; size_t offset, size; };

struct Machine {
    Fiber* fibers;
    unsigned char *stacks, *arena;
    SharedArray arrays[64];
    int array_count;
    size_t used;
    int count, current;
    sigjmp_buf scheduler;
    ucontext_t unused;
    sigjmp_buf failure;
    char* message;
    size_t message_size;
    void (*body)(void*);
    void* body_data;
};

static Machine machine;

}  // namespace emulation

static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

[[noreturn]] inline void fail(const char* what, int line) {
    snprintf(
        machine.message, machine.message_size, "%s, line %d, thread (%u, %u, %u) of block (%u, %u, %u)", what, line,
        threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    siglongjmp(machine.failure, 1);
}

inline void trapped(int signal) {
    fail(
        signal == SIGILL || signal == SIGTRAP ? "undefined behaviour: index, alignment, shift or overflow (trap)"
                                              : "memory that is not an array's, or misaligned, was touched (fault)",
        machine.fibers[machine.current].line);
}

// A block's array in shared memory: the first of its threads to come here finds its place.
template <class Array>
Array& shared(const void* key) {
    for (int i = 0; i < machine.array_count; ++i)
        if (machine.arrays[i].key == key) return *(Array*)(machine.arena + machine.arrays[i].offset);
    const size_t offset = machine.used + GUARD;
    if (machine.array_count == 64 || offset + sizeof(Array) + GUARD > ARENA) fail("too many shared arrays", 0);
    machine.arrays[machine.array_count++] = {key, offset, sizeof(Array)};
    machine.used = (offset + sizeof(Array) + 255) / 256 * 256;
    return *(Array*)(machine.arena + offset);
}

inline void check_guards() {
    size_t from = 0, total = 0;
    for (int i = 0; i <= machine.array_count; ++i) {
        const size_t to = i < machine.array_count ? machine.arrays[i].offset : ARENA;
        for (size_t at = from; at < to; ++at)
            if (machine.arena[at] != POISON) fail("shared memory was written outside of its arrays", 0);
        if (i < machine.array_count) {
            from = to + machine.arrays[i].size;
            total += machine.arrays[i].size;
        }
    }
    if (total > SHARED_LIMIT) fail("a block has more than 48 KiB of shared memory", 0);
}

inline void suspend(State state, int line) {
    Fiber& self = machine.fibers[machine.current];
    self.state = state;
    self.line = line;
    if (!sigsetjmp(self.resume, 0)) siglongjmp(machine.scheduler, 1);
}

inline void first_call() {
    machine.body(machine.body_data);
    machine.fibers[machine.current].state = FINISHED;
    siglongjmp(machine.scheduler, 1);
}

inline void run(int index) {
    machine.current = index;
    Fiber& fiber = machine.fibers[index];
    threadIdx = fiber.thread;
    if (sigsetjmp(machine.scheduler, 0)) return;
    if (fiber.started) siglongjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

// Value of every lane of the warp, once all lanes of `mask` have posted theirs. Two slots: a fast lane may already post
// its next value while a slow one still reads.
inline long long exchange(unsigned mask, long long value, int lane, int line) {
    Fiber& self = machine.fibers[machine.current];
    const int slot = self.operations++ & 1, warp = machine.current / 32 * 32;
    if (!(mask >> machine.current % 32 & 1)) fail("a lane is not in its own mask", line);
    self.posted[slot] = value;
    self.mask = mask;
    suspend(AT_WARP, line);
    return lane < 0 ? 0 : machine.fibers[warp + lane].posted[slot];
}

inline unsigned ballot(unsigned mask, bool value, int line) {
    Fiber& self = machine.fibers[machine.current];
    const int slot = self.operations & 1, warp = machine.current / 32 * 32;
    exchange(mask, value, -1, line);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && machine.fibers[warp + lane].posted[slot]) bits |= 1u << lane;
    return bits;
}

inline int shuffle(unsigned mask, int value, int lane, int line) { return (int)exchange(mask, value, lane & 31, line); }

inline void release_warps() {
    for (int warp = 0; warp < machine.count; warp += 32) {
        const int end = min(warp + 32, machine.count);
        for (int first = warp; first < end; ++first) {
            Fiber& one = machine.fibers[first];
            if (one.state != AT_WARP) continue;
            bool all = true;
            for (int lane = 0; lane < 32; ++lane) {
                if (!(one.mask >> lane & 1)) continue;
                if (warp + lane >= end) { machine.current = first; fail("a mask holds lanes that the block has not", one.line); }
                const Fiber& other = machine.fibers[warp + lane];
                all = all && other.state == AT_WARP && other.line == one.line && other.mask == one.mask;
            }
            if (!all) continue;
            const unsigned mask = one.mask;
            for (int lane = 0; lane < 32; ++lane)
                if (mask >> lane & 1) machine.fibers[warp + lane].state = READY;
        }
    }
}

inline void shuffle_order(int* order, int count, int kind, uint64_t& random) {
    for (int i = 0; i < count; ++i) order[i] = kind == 1 ? count - 1 - i : i;
    for (int i = count - 1; kind == 2 && i > 0; --i) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const int other = (random >> 33) % (i + 1), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

inline void run_block(int kind, uint64_t& random) {
    static int order[MOST_THREADS];
    memset(machine.arena, POISON, ARENA);
    machine.array_count = 0;
    machine.used = 0;
    for (int i = 0; i < machine.count; ++i) {
        Fiber& fiber = machine.fibers[i];
        fiber.started = false;
        fiber.state = READY;
        fiber.operations = 0;
        fiber.line = 0;
        fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = machine.stacks + i * STACK;
        fiber.start.uc_stack.ss_size = STACK;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, first_call, 0);
    }
    for (;;) {
        shuffle_order(order, machine.count, kind, random);
        bool progress = false;
        for (int i = 0; i < machine.count; ++i) {
            if (machine.fibers[order[i]].state == READY) {
                run(order[i]);
                progress = true;
            }
        }
        release_warps();
        int barrier = 0, finished = 0, ready = 0, line = 0;
        for (int i = 0; i < machine.count; ++i) {
            const Fiber& fiber = machine.fibers[i];
            ready += fiber.state == READY;
            finished += fiber.state == FINISHED;
            if (fiber.state == AT_BARRIER) {
                if (barrier && fiber.line != line) { threadIdx = fiber.thread; fail("threads wait at different barriers", fiber.line); }
                ++barrier;
                line = fiber.line;
            }
        }
        if (finished == machine.count) break;
        if (ready) continue;
        if (barrier == machine.count) {
            for (int i = 0; i < machine.count; ++i) machine.fibers[i].state = READY;
        } else if (!progress || barrier + finished == machine.count) {
            for (int i = 0; i < machine.count; ++i)
                if (machine.fibers[i].state == AT_BARRIER || machine.fibers[i].state == AT_WARP) {
                    threadIdx = machine.fibers[i].thread;
                    fail("a barrier or warp function that not all of its threads reach", machine.fibers[i].line);
                }
        }
    }
    check_guards();
}

struct Order { int kind; uint64_t seed; };

inline int run_grid(uint3 grid, uint3 block, Order order, void (*body)(void*), void* data, char* message, size_t size) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};
    struct sigaction action = {}, before[5];
    machine.count = block.x * block.y * block.z;
    machine.body = body;
    machine.body_data = data;
    machine.message = message;
    machine.message_size = size;
    machine.current = 0;
    gridDim = grid;
    blockDim = block;
    threadIdx = blockIdx = {0, 0, 0};
    if (machine.count > MOST_THREADS) {
        snprintf(message, size, "a block of %d threads", machine.count);
        return 1;
    }
    if (!machine.fibers) {
        machine.fibers = (Fiber*)calloc(MOST_THREADS, sizeof(Fiber));
        machine.stacks = (unsigned char*)mmap(
            nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        machine.arena = (unsigned char*)aligned_alloc(4096, ARENA);
    }
    action.sa_handler = trapped;
    action.sa_flags = SA_NODEFER;
    for (int i = 0; i < 5; ++i) sigaction(signals[i], &action, &before[i]);
    const int failed = sigsetjmp(machine.failure, 0);
    if (!failed) {
        uint64_t random = order.seed;
        const long long count = (long long)grid.x * grid.y * grid.z;
        for (long long i = 0; i < count; ++i) {
            const long long at = order.kind == 1 ? count - 1 - i : i;
            blockIdx = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
            run_block(order.kind, random);
        }
    }
    for (int i = 0; i < 5; ++i) sigaction(signals[i], &before[i], nullptr);
    return failed;
}

template <class T> struct Plain { typedef T type; static constexpr int kind = sizeof(T); };
template <class T> struct Plain<const T> { typedef T type; static constexpr int kind = Plain<T>::kind; };
template <class T> struct Plain<T*> { typedef T* type; static constexpr int kind = 0; };
template <> struct Plain<float> { typedef float type; static constexpr int kind = -4; };
template <> struct Plain<double> { typedef double type; static constexpr int kind = -8; };

template <size_t... Index> struct Indices {};
template <size_t Count, size_t... Index> struct CountUp : CountUp<Count - 1, Count - 1, Index...> {};
template <size_t... Index> struct CountUp<0, Index...> { typedef Indices<Index...> type; };

template <class... Parameters>
struct Call {
    void (*kernel)(Parameters...);
    void** arguments;

    template <size_t... Index>
    void apply(Indices<Index...>) { kernel(*(typename Plain<Parameters>::type*)arguments[Index]...); }
    static void run(void* self) { ((Call*)self)->apply(typename CountUp<sizeof...(Parameters)>::type()); }
};

// `kinds` says of each argument its size in bytes, negative for a floating-point number and 0 for an address.
template <class... Parameters>
int launch(
    void (*kernel)(Parameters...), const unsigned* grid, const unsigned* block, int order, uint64_t seed, void** arguments,
    const int* kinds, int count, char* message, size_t size)
{
    const int wanted[] = {Plain<Parameters>::kind...};
    bool fits = count == (int)sizeof...(Parameters);
    int which = 0;
    for (; fits && which < count; ++which)
        if (wanted[which] != kinds[which]) { fits = false; break; }
    if (!fits) {
        snprintf(message, size, "%d arguments for %d parameters, or argument %d is of another type", count, (int)sizeof...(Parameters), which);
        return 1;
    }
    Call<Parameters...> call{kernel, arguments};
    return run_grid(
        {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, {order, seed}, Call<Parameters...>::run, &call, message, size);
}

}  // namespace emulation

#define __syncthreads() emulation::suspend(emulation::AT_BARRIER, __LINE__)
#define __ballot_sync(mask, value) emulation::ballot(mask, value, __LINE__)
#define __shfl_sync(mask, value, lane) emulation::shuffle(mask, value, lane, __LINE__)
#define __trap() emulation::fail("__trap()", __LINE__)
