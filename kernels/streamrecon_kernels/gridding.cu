// Spokes to the spectrum of a block of slices and back: taps, gridding, folding. Row pairs innermost.

constexpr int TILE = 16;
constexpr int PAIRS = 16;
constexpr int CHUNK = 32;
constexpr int MAX_WIDTH = 12;
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float2 multiply(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// First cells (angle, count) and weights (angle, count, width) along one axis. Everything but the result is float64, and
// the product is rounded before it is used, so that a cell on the rim of the window is the same as on a CPU.
extern "C" __global__ void __launch_bounds__(256) spoke_taps(
    const double* __restrict__ step, const float* __restrict__ table, int* __restrict__ first,
    float* __restrict__ weights, int count, int middle, int width, int per_cell)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x, angle = blockIdx.y;
    if (k >= count) return;
    const double position = __dmul_rn((double)(k - (count - 1) / 2), step[angle]);
    const double half = 0.5 * width;
    const int cell = (int)ceil(position - half);
    const long long sample = (long long)angle * count + k;
    first[sample] = cell + middle;
    for (int j = 0; j < width; ++j) {
        const double t = fabs(cell + j - position) * per_cell;
        const int i = (int)t;
        // Zero at both ends: a cell exactly there is seen from one side only, and rows would leak into each other.
        const double here = table[i], there = table[i + 1];
        weights[sample * width + j] = t < half * per_cell ? (float)(here + (t - i) * (there - here)) : 0.0f;
    }
}

// The samples k from `low` to `high` whose windows may reach cells `first` to `first + TILE` along one axis: a few too
// many, never one too few. Cells and samples are counted from the zero frequency.
__device__ __forceinline__ void narrow(float step, float first, int width, float& low, float& high) {
    const float from = first - 0.5f * width - 2.0f, to = first + TILE + 0.5f * width + 2.0f;
    if (step == 0.0f) {
        if (from > 0.0f || to < 0.0f) high = low - 2.0f;
        return;
    }
    const float a = from / step, b = to / step;
    low = fmaxf(low, floorf(fminf(a, b)) - 1.0f);
    high = fminf(high, ceilf(fmaxf(a, b)) + 1.0f);
}

// A block owns TILE x TILE cells of PAIRS row pairs, and takes the samples in the order of (angle, k). A sample's window
// of width x width cells holds every residue class (v mod width, u mod width) once: a thread has one class and one pair,
// so no two threads ever write the same cell, nothing is atomic, and the sums depend on nothing but their order.
extern "C" __global__ void __launch_bounds__(1024, 1) grid_spokes(
    float2* __restrict__ grid, const float2* __restrict__ spectra, const float2* __restrict__ factor,
    const double* __restrict__ cos, const double* __restrict__ sin,
    const int* __restrict__ first_u, const int* __restrict__ first_v,
    const float* __restrict__ weights_u, const float* __restrict__ weights_v,
    int side, int angles, int n, int pairs, int width)
{
    __shared__ float2 cells[TILE * TILE * PAIRS];
    __shared__ float2 samples[CHUNK * PAIRS];
    __shared__ float taps_u[CHUNK * MAX_WIDTH], taps_v[CHUNK * MAX_WIDTH];
    __shared__ int corner_u[CHUNK], corner_v[CHUNK], class_u[CHUNK], class_v[CHUNK];

    const int threads = blockDim.x, thread = threadIdx.x, lane = thread % 32;
    const int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
    const int pair = thread % PAIRS, first_pair = blockIdx.z * PAIRS;
    const int middle = (side - 1) / 2, count = n + 1;
    bool loaded = false;

    // A thread reads and writes the cells of its own classes alone, also here: no barrier stands between.
    const auto copy = [&](bool back) {
        for (int own = thread / PAIRS; own < width * width; own += threads / PAIRS) {
            for (int y = own / width; y < TILE; y += width) {
                for (int x = own % width; x < TILE; x += width) {
                    float2& cell = cells[(y * TILE + x) * PAIRS + pair];
                    if (top + y < side && left + x < side && first_pair + pair < pairs) {
                        float2& far = grid[((long long)(top + y) * side + left + x) * pairs + first_pair + pair];
                        if (back) far = cell; else cell = far;
                    } else if (!back) {
                        cell = make_float2(0.0f, 0.0f);
                    }
                }
            }
        }
    };

    for (int start = 0; start < angles; start += 32) {
        // Each lane looks at one angle; most angles pass most tiles by.
        float low = -0.5f * n, high = start + lane < angles ? 0.5f * n : low - 1.0f;
        if (start + lane < angles) {
            narrow((float)cos[start + lane], left - middle, width, low, high);
            narrow((float)sin[start + lane], top - middle, width, low, high);
        }
        // Compared before they are whole numbers: what lies far outside would not fit.
        unsigned passing = __ballot_sync(ALL, low <= high);
        const int low_k = low <= high ? (int)low + n / 2 : 0, high_k = low <= high ? (int)high + n / 2 : -1;
        while (passing) {
            const int source = __ffs(passing) - 1;
            passing &= passing - 1;
            const int angle = start + source;
            const int from = __shfl_sync(ALL, low_k, source), to = __shfl_sync(ALL, high_k, source);
            if (!loaded) copy(false);
            loaded = true;
            for (int base = from; base <= to; base += CHUNK) {
                const int size = min(CHUNK, to - base + 1);
                __syncthreads();
                for (int i = thread; i < size * PAIRS; i += threads) {
                    const int k = base + i / PAIRS, at = first_pair + i % PAIRS;
                    const int wrapped = k < n / 2 ? k + n / 2 : k - n / 2;
                    samples[i] = at < pairs
                        ? multiply(
                              factor[(long long)angle * count + k],
                              spectra[((long long)angle * n + wrapped) * pairs + at])
                        : make_float2(0.0f, 0.0f);
                }
                const long long sample = (long long)angle * count + base;
                for (int i = thread; i < size * width; i += threads) {
                    taps_u[i] = weights_u[sample * width + i];
                    taps_v[i] = weights_v[sample * width + i];
                }
                for (int i = thread; i < size; i += threads) {
                    const int u = first_u[sample + i] - left, v = first_v[sample + i] - top;
                    corner_u[i] = u;
                    corner_v[i] = v;
                    class_u[i] = (u % width + width) % width;
                    class_v[i] = (v % width + width) % width;
                }
                __syncthreads();
                for (int own = thread / PAIRS; own < width * width; own += threads / PAIRS) {
                    const int own_u = own % width, own_v = own / width;
                    for (int i = 0; i < size; ++i) {
                        int du = own_u - class_u[i], dv = own_v - class_v[i];
                        du += du < 0 ? width : 0;
                        dv += dv < 0 ? width : 0;
                        const int x = corner_u[i] + du, y = corner_v[i] + dv;
                        if (x < 0 || x >= TILE || y < 0 || y >= TILE) continue;
                        const float weight = taps_v[i * width + dv] * taps_u[i * width + du];
                        const float2 value = samples[i * PAIRS + pair];
                        float2& cell = cells[(y * TILE + x) * PAIRS + pair];
                        cell.x = fmaf(weight, value.x, cell.x);
                        cell.y = fmaf(weight, value.y, cell.y);
                    }
                }
            }
        }
    }
    if (loaded) copy(true);
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
