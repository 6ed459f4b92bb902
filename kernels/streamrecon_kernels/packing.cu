// Rows to what the FFT takes, and its spectra filtered. Compile with -DRAW=<type of a value of the rows>.
#include "half.cuh"

// A tile of 64 rows is 32 complex pairs: a warp reads 32 columns of a row and writes 32 pairs of a column.
constexpr int TILE = 32;
constexpr int WARPS = 8;
constexpr int PER_THREAD = 4;

__device__ __forceinline__ float widen(Half value) { return half_to_float(value.bits); }

template <class Number>
__device__ __forceinline__ float widen(Number value) { return (float)value; }

// Row 2j and row 2j + 1 lie in two planes; the odd stride lets a warp read a column of either from 32 banks.
template <class Load>
__device__ __forceinline__ void pack(
    Load load, float (&tile)[2][TILE][TILE + 1], float2* __restrict__ out,
    int angles, int rows, int columns, int padded, int pairs)
{
    const int lane = threadIdx.x, warp = threadIdx.y;
    const int place = blockIdx.x * TILE, pair = blockIdx.y * TILE;
    const int column = min(max(place + lane - (padded - columns) / 2, 0), columns - 1);
    for (int angle = blockIdx.z; angle < angles; angle += gridDim.z) {
#pragma unroll
        for (int i = 0; i < 2 * TILE; i += WARPS) {
            const int row = 2 * pair + i + warp;
            tile[(i + warp) & 1][(i + warp) >> 1][lane] = row < rows ? load(angle, row, column) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int i = warp; i < TILE; i += WARPS) {
            if (place + i < padded && pair + lane < pairs)
                out[((long long)angle * padded + place + i) * pairs + pair + lane] =
                    make_float2(tile[0][lane][i], tile[1][lane][i]);
        }
        __syncthreads();
    }
}

struct Rows {
    const RAW* rows;
    const float* weight;
    long long angle_stride, row_stride;

    __device__ __forceinline__ float operator()(int angle, int row, int column) const {
        return weight[column] * widen(rows[angle * angle_stride + row * row_stride + column]);
    }
};

struct Counts {
    const RAW* raw;
    const float* dark;
    const float* term;
    const float* weight;
    long long angle_stride, row_stride, term_stride;
    int columns;
    float floor;

    __device__ __forceinline__ float operator()(int angle, int row, int column) const {
        const long long pixel = (long long)row * columns + column;
        const float count = widen(raw[angle * angle_stride + row * row_stride + column]) - dark[pixel];
        return weight[column] * (term[angle * term_stride + pixel] - logf(fmaxf(count, floor)));
    }
};

extern "C" __global__ void __launch_bounds__(TILE * WARPS) pack_rows(
    const RAW* __restrict__ rows, const float* __restrict__ weight, float2* __restrict__ out,
    long long angle_stride, long long row_stride, int angles, int count, int columns, int padded, int pairs)
{
    __shared__ float tile[2][TILE][TILE + 1];
    pack(Rows{rows, weight, angle_stride, row_stride}, tile, out, angles, count, columns, padded, pairs);
}

extern "C" __global__ void __launch_bounds__(TILE * WARPS) integrate_and_pack(
    const RAW* __restrict__ raw, const float* __restrict__ dark, const float* __restrict__ term,
    const float* __restrict__ weight, float2* __restrict__ out,
    long long angle_stride, long long row_stride, long long term_stride,
    int angles, int count, int columns, int padded, int pairs, float floor)
{
    __shared__ float tile[2][TILE][TILE + 1];
    pack(
        Counts{raw, dark, term, weight, angle_stride, row_stride, term_stride, columns, floor},
        tile, out, angles, count, columns, padded, pairs);
}

// Not __restrict__: `out` may be `spectra`. A thread reads all of its values before it writes any, and no one else's.
extern "C" __global__ void __launch_bounds__(256) filter_spectra(
    const float2* spectra, const float* __restrict__ response, float2* out,
    int n, int length, int pairs)
{
    const int angle = blockIdx.y;
    const float2* from = spectra + (long long)angle * n * pairs;
    float2* to = out + (long long)angle * length * pairs;
    const float* gain = response + (long long)angle * (n / 2 + 1);
    float2 values[PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        const unsigned item = (blockIdx.x * PER_THREAD + i) * blockDim.x + threadIdx.x;
        const int k = item / (unsigned)pairs, pair = item % (unsigned)pairs;
        const int frequency = k <= length / 2 ? k : k - length;
        const int size = abs(frequency);
        values[i] = make_float2(0.0f, 0.0f);
        if (k < length && size <= n / 2) {
            // The Nyquist sample is halved only where its two halves lie apart.
            const float factor = gain[size] * (size == n / 2 && length > n ? 0.5f : 1.0f);
            const float2 value = from[(long long)(frequency < 0 ? frequency + n : frequency) * pairs + pair];
            values[i] = make_float2(factor * value.x, factor * value.y);
        }
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        const unsigned item = (blockIdx.x * PER_THREAD + i) * blockDim.x + threadIdx.x;
        if (item < (unsigned)length * pairs) to[item] = values[i];
    }
}
