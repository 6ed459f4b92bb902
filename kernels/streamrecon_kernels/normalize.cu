// Raw counts to line integrals: term - log(max(raw - dark, floor)). Compile with -DRAW=<type of a count>.

// Loads in flight per thread: one count is so small that a load each would not fill the memory's latency.
constexpr int ANGLES = 8;

extern "C" __global__ void __launch_bounds__(256) line_integrals(
    const RAW* __restrict__ raw, const float* __restrict__ dark, const float* __restrict__ term,
    float* __restrict__ out, long long pixels, long long term_stride, int angles, float floor)
{
    const long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const float black = dark[pixel];
    const int start = blockIdx.y * ANGLES;
    float counts[ANGLES], terms[ANGLES];
#pragma unroll
    for (int i = 0; i < ANGLES; ++i) {
        if (start + i < angles) {
            counts[i] = (float)raw[(start + i) * pixels + pixel];
            terms[i] = term[(start + i) * term_stride + pixel];
        }
    }
#pragma unroll
    for (int i = 0; i < ANGLES; ++i) {
        // fmaxf takes the floor where the count is not a number.
        if (start + i < angles)
            out[(start + i) * pixels + pixel] = terms[i] - logf(fmaxf(counts[i] - black, floor));
    }
}
