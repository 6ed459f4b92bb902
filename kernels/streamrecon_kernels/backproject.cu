// Direct backprojection into a block of slices, rows innermost. Compile with
//   -DCOLUMNS=<columns of the rows that a tile can see at one angle, and 4; a multiple of 32>
//   -DHALF=0 float32 in shared memory, or -DHALF=1 float16 there; sums are float32 in both.
//
// The kernel is bound by shared memory: an update reads the two neighbours of a row, 8 or 4 bytes. So
//  * a thread has as many rows as fill a 16-byte word; one position and two weights serve them all;
//  * eight lanes beside each other read the 128 contiguous bytes of one column: without conflicts, wherever the pixels of
//    the other lanes fall. This is why values are staged as they are: a (value, difference) pair would save no traffic
//    where both neighbours are read in whole words, and would double what is staged;
//  * a tile's sums stay in registers over all angles of a launch, and the volume is read and written once;
//  * while one angle is added, the next is on its way to registers, and then to the other of two buffers.
#include "half.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 8;
constexpr int SLOTS = THREADS / LANES;
constexpr int ROWS = HALF ? 8 : 4;
constexpr int PIXELS = 64 / ROWS;
constexpr int WIDTH = HALF ? 16 : 32;
constexpr int STEP = SLOTS / WIDTH;
constexpr int HEIGHT = PIXELS * STEP;
constexpr int STAGED = COLUMNS / SLOTS;
constexpr float INTEGERS = 8388608.0f;  // from here on, neighbouring floats are neighbouring integers

// `limit` is floor(4 radius^2): twice the coordinates are whole numbers, so the rim is exact.
__device__ __forceinline__ bool inside(int y, int x, int height, int width, long long limit) {
    const long long dy = 2 * y - (height - 1), dx = 2 * x - (width - 1);
    return y < height && x < width && dy * dy + dx * dx <= limit;
}

// Twice the distance, along one axis, from the middle of `count` pixels to the nearest of `size` pixels from `first` on.
__device__ __forceinline__ long long nearest(int first, int size, int count) {
    const int low = 2 * first - (count - 1), high = low + 2 * (size - 1);
    return low > 0 ? low : high < 0 ? -high : 0;
}

// Four rows from `row` on; what is not there is 0.
__device__ __forceinline__ float4 load_rows(const float* line, int row, int rows, bool whole_words) {
    if (whole_words) return row < rows ? *(const float4*)(line + row) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return make_float4(
        row < rows ? line[row] : 0.0f, row + 1 < rows ? line[row + 1] : 0.0f,
        row + 2 < rows ? line[row + 2] : 0.0f, row + 3 < rows ? line[row + 3] : 0.0f);
}

__device__ __forceinline__ void store_rows(float* line, int row, int rows, bool whole_words, float4 value) {
    if (whole_words) {
        if (row < rows) *(float4*)(line + row) = value;
        return;
    }
    if (row < rows) line[row] = value.x;
    if (row + 1 < rows) line[row + 1] = value.y;
    if (row + 2 < rows) line[row + 2] = value.z;
    if (row + 3 < rows) line[row + 3] = value.w;
}

__device__ __forceinline__ bool are_whole_words(const float* values, int rows) {
    return rows % 4 == 0 && (unsigned long long)values % 16 == 0;
}

__device__ __forceinline__ void accumulate(float4& sum, float weight, float4 value) {
    sum.x = fmaf(weight, value.x, sum.x);
    sum.y = fmaf(weight, value.y, sum.y);
    sum.z = fmaf(weight, value.z, sum.z);
    sum.w = fmaf(weight, value.w, sum.w);
}

__device__ __forceinline__ float4 times(float factor, float4 value) {
    return make_float4(factor * value.x, factor * value.y, factor * value.z, factor * value.w);
}

// A 16-byte word of shared memory: ROWS values of one column.
#if HALF
typedef uint4 Word;

__device__ __forceinline__ unsigned join(float low, float high) {
    return float_to_half(low) | (unsigned)float_to_half(high) << 16;
}

__device__ __forceinline__ Word to_word(const float4 (&value)[ROWS / 4]) {
    return make_uint4(
        join(value[0].x, value[0].y), join(value[0].z, value[0].w),
        join(value[1].x, value[1].y), join(value[1].z, value[1].w));
}

__device__ __forceinline__ float4 from_halves(unsigned low, unsigned high) {
    float4 value;
    WIDEN_HALVES(value.x, value.y, low);
    WIDEN_HALVES(value.z, value.w, high);
    return value;
}

__device__ __forceinline__ void accumulate(float4 (&sum)[ROWS / 4], float weight, Word word) {
    accumulate(sum[0], weight, from_halves(word.x, word.y));
    accumulate(sum[1], weight, from_halves(word.z, word.w));
}
#else
typedef float4 Word;

__device__ __forceinline__ Word to_word(const float4 (&value)[1]) { return value[0]; }

__device__ __forceinline__ void accumulate(float4 (&sum)[1], float weight, Word word) { accumulate(sum[0], weight, word); }
#endif

// Where a tile sees the rows at one angle.
struct View {
    float cos, sin;
    float middle;  // column of the tile's middle, counted from `first`
    int first;     // the first column of the segment
    int count;     // its length
};

// The volume is read and written as scale * value, so that float16 can be kept in its range: a power of two is exact.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backproject(
    float* __restrict__ volume, const float* __restrict__ filtered,
    const float* __restrict__ cos, const float* __restrict__ sin, const float* __restrict__ offset,
    int height, int width, int rows, int columns, int angles, long long by_angle, long long limit, float scale)
{
    __shared__ Word staged[2][COLUMNS * LANES];
    const int left = blockIdx.x * WIDTH, top = blockIdx.y * HEIGHT;
    const long long far_x = nearest(left, WIDTH, width), far_y = nearest(top, HEIGHT, height);
    if (far_x * far_x + far_y * far_y > limit) return;

    const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES;
    const int slot_x = slot % WIDTH, slot_y = slot / WIDTH;
    const int row = (blockIdx.z * LANES + lane) * ROWS;
    const bool whole_words = are_whole_words(filtered, rows) && by_angle % 4 == 0, whole_pixels = are_whole_words(volume, rows);
    const float middle_x = left + 0.5f * (WIDTH - 1) - 0.5f * (width - 1);
    const float middle_y = top + 0.5f * (HEIGHT - 1) - 0.5f * (height - 1);

    float4 sums[PIXELS][ROWS / 4];
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        const int x = left + slot_x, y = top + slot_y + i * STEP;
        const bool wanted = inside(y, x, height, width, limit);
#pragma unroll
        for (int j = 0; j < ROWS / 4; ++j)
            sums[i][j] = wanted
                ? times(scale, load_rows(volume + ((long long)y * width + x) * rows, row + 4 * j, rows, whole_pixels))
                : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }

    const auto look = [&](int angle) {
        View view;
        view.cos = cos[angle];
        view.sin = sin[angle];
        const float middle = fmaf(middle_x, view.cos, fmaf(middle_y, view.sin, offset[angle]));
        const float reach = 0.5f * (WIDTH - 1) * fabsf(view.cos) + 0.5f * (HEIGHT - 1) * fabsf(view.sin);
        // A column to spare on each side takes up what rounding does to the outermost pixels.
        view.first = (int)floorf(middle - reach) - 1;
        view.middle = middle - view.first;
        view.count = (int)(2.0f * reach) + 4;
        if (2.0f * reach + 4.0f > COLUMNS) __trap();
        return view;
    };

    float4 ahead[STAGED][ROWS / 4];
    const auto fetch = [&](int angle) {
        const View view = look(angle);
#pragma unroll
        for (int i = 0; i < STAGED; ++i) {
            const int column = view.first + slot + i * SLOTS;
            const float* line = filtered + angle * by_angle + (long long)column * rows;
            const bool there = column >= 0 && column < columns && slot + i * SLOTS < view.count;
#pragma unroll
            for (int j = 0; j < ROWS / 4; ++j)
                ahead[i][j] = there ? load_rows(line, row + 4 * j, rows, whole_words) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    };
    const auto stage = [&](Word* to) {
#pragma unroll
        for (int i = 0; i < STAGED; ++i) {
#pragma unroll
            for (int j = 0; HALF && j < ROWS / 4; ++j) ahead[i][j] = times(scale, ahead[i][j]);
            to[(slot + i * SLOTS) * LANES + lane] = to_word(ahead[i]);
        }
    };

    fetch(0);
    stage(staged[0]);
    __syncthreads();
#pragma unroll 1
    for (int angle = 0; angle < angles; ++angle) {
        // Looked up again, not kept from when it was fetched: the registers are all taken.
        const View view = look(angle);
        const Word* here = staged[angle & 1] + lane;
        const float base = fmaf(
            slot_x - 0.5f * (WIDTH - 1), view.cos, fmaf(slot_y - 0.5f * (HEIGHT - 1), view.sin, view.middle));
        if (angle + 1 < angles) fetch(angle + 1);
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const float u = fmaf((float)(i * STEP), view.sin, base);
            // Rounded down, the sum is 2^23 + floor(u), and its bits are an integer: no conversion is needed.
            const float below = __fadd_rd(u, INTEGERS);
            const Word* word = here + (__float_as_int(below) - __float_as_int(INTEGERS)) * LANES;
            const float right = u - (below - INTEGERS);
            accumulate(sums[i], 1.0f - right, word[0]);
            accumulate(sums[i], right, word[LANES]);
        }
        // The other buffer was read before the last barrier, so one barrier an angle is enough.
        if (angle + 1 < angles) stage(staged[(angle + 1) & 1]);
        __syncthreads();
    }

    const float back = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        const int x = left + slot_x, y = top + slot_y + i * STEP;
        if (inside(y, x, height, width, limit)) {
#pragma unroll
            for (int j = 0; j < ROWS / 4; ++j)
                store_rows(
                    volume + ((long long)y * width + x) * rows, row + 4 * j, rows, whole_pixels, times(back, sums[i][j]));
        }
    }
}

// For comparison: the texture unit interpolates, with fractions of 8 bits. `texture` is 2-D, of float4: x is the column,
// y the angle and group of four rows, group fastest; linear filtering, coordinates not normalised.
extern "C" __global__ void __launch_bounds__(256) backproject_texture(
    float* __restrict__ volume, cudaTextureObject_t texture,
    const float* __restrict__ cos, const float* __restrict__ sin, const float* __restrict__ offset,
    int height, int width, int groups, int angles, long long limit)
{
    const int group = blockIdx.z * blockDim.x + threadIdx.x;
    const int x = blockIdx.x * blockDim.y + threadIdx.y, y = blockIdx.y * blockDim.z + threadIdx.z;
    if (group >= groups || !inside(y, x, height, width, limit)) return;
    const float dx = x - 0.5f * (width - 1), dy = y - 0.5f * (height - 1);
    float4* pixel = (float4*)volume + ((long long)y * width + x) * groups + group;
    float4 sum = *pixel;
    for (int angle = 0; angle < angles; ++angle) {
        const float u = fmaf(dx, cos[angle], fmaf(dy, sin[angle], offset[angle]));
        accumulate(sum, 1.0f, tex2D<float4>(texture, u + 0.5f, angle * groups + group + 0.5f));
    }
    *pixel = sum;
}
