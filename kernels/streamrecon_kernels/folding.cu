// The grid to the spectrum that is transformed back. Row pairs innermost.

__device__ __forceinline__ float2 multiply(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// The spectrum of one period: out[v, u] = factor_v[v] factor_u[u] sum of the cells that lie periods apart from (v, u).
// Zero frequency: in the middle of `grid`, first in `out`. A shorter `out` has the central frequencies of the period.
extern "C" __global__ void __launch_bounds__(256) fold_grid(
    const float2* __restrict__ grid, const float2* __restrict__ factor_v, const float2* __restrict__ factor_u,
    float2* __restrict__ out, long long stride_v, long long stride_u, int side, int period, int length, int pairs)
{
    const int pair = blockIdx.y * blockDim.x + threadIdx.x, u = blockIdx.x * blockDim.y + threadIdx.y;
    if (pair >= pairs || u >= length) return;
    const int middle = (side - 1) / 2;
    const auto frequency = [&](int i) { return i < length / 2 ? i : i - length; };
    const auto kept = [&](int f) { return f >= -(length / 2) && f >= -(period / 2) && f < period - period / 2; };
    const auto start = [&](int f) { return ((middle + f) % period + period) % period; };
    for (int v = blockIdx.z; v < length; v += gridDim.z) {
        float2 sum = make_float2(0.0f, 0.0f);
        if (kept(frequency(u)) && kept(frequency(v))) {
            for (int y = start(frequency(v)); y < side; y += period) {
                for (int x = start(frequency(u)); x < side; x += period) {
                    const float2 value = grid[y * stride_v + x * stride_u + pair];
                    sum.x += value.x;
                    sum.y += value.y;
                }
            }
            sum = multiply(multiply(factor_v[v], factor_u[u]), sum);
        }
        out[((long long)v * length + u) * pairs + pair] = sum;
    }
}
