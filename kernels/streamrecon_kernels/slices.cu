// From rows innermost to slices: a transposition of (x, row) planes through shared memory.

constexpr int TILE = 32;
constexpr int WARPS = 8;

// `limit` is floor(4 radius^2): twice the coordinates are whole numbers, so the rim is exact.
__device__ __forceinline__ bool inside(int y, int x, int height, int width, long long limit) {
    const long long dy = 2 * y - (height - 1), dx = 2 * x - (width - 1);
    return dy * dy + dx * dx <= limit;
}

extern "C" __global__ void __launch_bounds__(TILE * WARPS) take_slices(
    const float* __restrict__ values, const long long* __restrict__ y, const long long* __restrict__ x,
    const float* __restrict__ factor_y, const float* __restrict__ factor_x, float* __restrict__ out,
    long long stride_y, long long stride_x, int size_y, int size_x,
    int slices, int height, int width, long long limit)
{
    __shared__ float tile[TILE][TILE + 1];
    const int lane = threadIdx.x, warp = threadIdx.y;
    const int left = blockIdx.x * TILE, first = blockIdx.y * TILE;
    for (int i = blockIdx.z; i < height; i += gridDim.z) {
        const long long line = (y[i] < 0 ? y[i] + size_y : y[i]) * stride_y;
#pragma unroll
        for (int k = warp; k < TILE; k += WARPS) {
            const int j = left + k;
            if (j < width && first + lane < slices && inside(i, j, height, width, limit))
                tile[k][lane] = values[line + (x[j] < 0 ? x[j] + size_x : x[j]) * stride_x + first + lane];
        }
        __syncthreads();
        const int j = left + lane;
#pragma unroll
        for (int k = warp; k < TILE; k += WARPS) {
            if (j < width && first + k < slices)
                out[((long long)(first + k) * height + i) * width + j] =
                    inside(i, j, height, width, limit) ? tile[lane][k] * (factor_y[i] * factor_x[j]) : 0.0f;
        }
        __syncthreads();
    }
}
