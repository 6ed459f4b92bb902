// Half precision without a header: NVRTC has none of cuda_fp16.h unless a toolkit is installed beside it.
// A compiler for another target defines these three before it reads this text.

#ifndef WIDEN_HALF
#define WIDEN_HALF(value, bits) asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits))
#define NARROW_TO_HALF(bits, value) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value))
// A word is split by the move of a pair, which costs nothing: the conversions read either half of a register.
#define WIDEN_HALVES(low, high, word) \
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }" \
        : "=f"(low), "=f"(high) : "r"(word))
#endif

struct Half {
    unsigned short bits;
};

__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    WIDEN_HALF(value, bits);
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {
    unsigned short bits;
    NARROW_TO_HALF(bits, value);
    return bits;
}
