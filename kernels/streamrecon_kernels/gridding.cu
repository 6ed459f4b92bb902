// Spokes to the spectrum of a block of slices. Row pairs innermost. Compile with -DWIDTH=<cells of the kernel's window>.

constexpr int TILE = 16;
constexpr int LANES = 8;  // of two pairs each: they read 128 contiguous bytes of shared memory
constexpr int PAIRS = 2 * LANES;
constexpr int CHUNK = 32;
constexpr int CLASSES = WIDTH * WIDTH;
// Whole warps, for the ballot over the angles; where there are more classes, a thread takes several.
constexpr int WANTED = (CLASSES * LANES + 31) / 32 * 32;
constexpr int THREADS = WANTED < 1024 ? WANTED : 1024;
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float2 multiply(float2 a, float2 b) {
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// First cells (angle, count) and weights (angle, count, width) along one axis. Everything but the result is float64, and
// the product is rounded before it is used, so that a cell on the rim of the window is the same as on a CPU.
extern "C" __global__ void __launch_bounds__(256) spoke_taps(
    const double* __restrict__ step, const float* __restrict__ table, int* __restrict__ first,
    float* __restrict__ weights, int count, int middle, int per_cell, double edge)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x, angle = blockIdx.y;
    if (k >= count) return;
    const double position = __dmul_rn((double)(k - (count - 1) / 2), step[angle]) - 0.5 * WIDTH;
    const int cell = (int)ceil(position);
    const long long sample = (long long)angle * count + k;
    first[sample] = cell + middle;
    const double fraction = (cell - position) * per_cell;
    const int i = (int)fraction;
    const float share = (float)(fraction - i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        // See KaiserBessel.reach.
        const bool outside =
            (j == 0 && fraction < edge * per_cell) || (j == WIDTH - 1 && fraction > (1.0 - edge) * per_cell);
        const float here = table[i * WIDTH + j], there = table[(i + 1) * WIDTH + j];
        weights[sample * WIDTH + j] = outside ? 0.0f : here + share * (there - here);
    }
}

// The samples k from `low` to `high` whose windows may reach cells `first` to `first + TILE - 1` along one axis, counted from
// the zero frequency. A quarter of a cell to spare is a thousand times what float32 rounds these positions by.
__device__ __forceinline__ void narrow(float step, float first, float& low, float& high) {
    const float from = first - 0.5f * WIDTH - 0.25f, to = first + (TILE - 1) + 0.5f * WIDTH + 0.25f;
    if (step == 0.0f) {
        if (from > 0.0f || to < 0.0f) high = low - 1.0f;
        return;
    }
    const float a = from / step, b = to / step;
    low = fmaxf(low, floorf(fminf(a, b)));
    high = fminf(high, ceilf(fmaxf(a, b)));
}

// A block owns TILE x TILE cells of PAIRS row pairs, and takes the samples in the order of (angle, k). A sample's window
// of WIDTH x WIDTH cells holds every residue class (v mod WIDTH, u mod WIDTH) once: a thread has one class and two pairs, so
// no two threads ever write the same cell, nothing is atomic, and the sums depend on nothing but their order. A cell stays
// in the windows of several samples that follow each other, and so long its sum stays in registers.
extern "C" __global__ void __launch_bounds__(THREADS, THREADS < 1024 ? 1024 / THREADS : 1) grid_spokes(
    float2* __restrict__ grid, const float2* __restrict__ spectra, const float2* __restrict__ factor,
    const double* __restrict__ cos, const double* __restrict__ sin,
    const int* __restrict__ first_u, const int* __restrict__ first_v,
    const float* __restrict__ weights_u, const float* __restrict__ weights_v,
    int side, int angles, int n, int pairs, long long by_angle)
{
    __shared__ float4 cells[TILE * TILE * LANES];
    __shared__ float4 samples[CHUNK * LANES];
    __shared__ float taps_u[CHUNK * WIDTH];
    __shared__ float taps_v[CHUNK * WIDTH];
    __shared__ int4 windows[CHUNK];

    const int thread = threadIdx.x, lane = thread % LANES, warp_lane = thread % 32;
    const int left = blockIdx.x * TILE, top = blockIdx.y * TILE;
    const int pair = blockIdx.z * PAIRS + 2 * lane;
    const int middle = (side - 1) / 2, count = n + 1;
    const bool first_there = pair < pairs, second_there = pair + 1 < pairs;
    bool loaded = false;

    // A thread reads and writes the cells of its own classes alone, also here: no barrier stands between.
    const auto copy = [&](bool back) {
        for (int own = thread / LANES; own < CLASSES; own += THREADS / LANES) {
            for (int y = own / WIDTH; y < TILE; y += WIDTH) {
                for (int x = own % WIDTH; x < TILE; x += WIDTH) {
                    float4& cell = cells[(y * TILE + x) * LANES + lane];
                    const bool there = top + y < side && left + x < side;
                    float2* far = grid + ((long long)(top + y) * side + left + x) * pairs + pair;
                    if (back) {
                        if (there && first_there) far[0] = make_float2(cell.x, cell.y);
                        if (there && second_there) far[1] = make_float2(cell.z, cell.w);
                    } else {
                        const float2 none = make_float2(0.0f, 0.0f);
                        const float2 first = there && first_there ? far[0] : none;
                        const float2 second = there && second_there ? far[1] : none;
                        cell = make_float4(first.x, first.y, second.x, second.y);
                    }
                }
            }
        }
    };

    for (int start = 0; start < angles; start += 32) {
        // Each lane looks at one angle; most angles pass most tiles by.
        float low = -0.5f * n, high = 0.5f * n;
        if (start + warp_lane < angles) {
            narrow((float)cos[start + warp_lane], left - middle, low, high);
            narrow((float)sin[start + warp_lane], top - middle, low, high);
        } else {
            high = low - 1.0f;
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
                const long long sample = (long long)angle * count + base;
                __syncthreads();
                for (int i = thread; i < size * LANES; i += THREADS) {
                    const int k = base + i / LANES;
                    const int wrapped = k < n / 2 ? k + n / 2 : k - n / 2;
                    // i % LANES is this thread's lane: THREADS is a multiple of LANES.
                    const float2* value = spectra + angle * by_angle + (long long)wrapped * pairs + pair;
                    const float2 times = factor[(long long)angle * count + k], none = make_float2(0.0f, 0.0f);
                    const float2 first = first_there ? multiply(times, value[0]) : none;
                    const float2 second = second_there ? multiply(times, value[1]) : none;
                    samples[i] = make_float4(first.x, first.y, second.x, second.y);
                }
                for (int i = thread; i < size * WIDTH; i += THREADS) {
                    taps_u[i] = weights_u[sample * WIDTH + i];
                    taps_v[i] = weights_v[sample * WIDTH + i];
                }
                for (int i = thread; i < size; i += THREADS) {
                    const int u = first_u[sample + i] - left, v = first_v[sample + i] - top;
                    windows[i] = make_int4(u, v, (u % WIDTH + WIDTH) % WIDTH, (v % WIDTH + WIDTH) % WIDTH);
                }
                __syncthreads();
                for (int own = thread / LANES; own < CLASSES; own += THREADS / LANES) {
                    const int own_u = own % WIDTH, own_v = own / WIDTH;
                    int held = -1;
                    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    for (int i = 0; i < size; ++i) {
                        const int4 window = windows[i];
                        int du = own_u - window.z, dv = own_v - window.w;
                        du += du < 0 ? WIDTH : 0;
                        dv += dv < 0 ? WIDTH : 0;
                        const int x = window.x + du, y = window.y + dv;
                        if (x < 0 || x >= TILE || y < 0 || y >= TILE) continue;
                        const int cell = (y * TILE + x) * LANES + lane;
                        if (cell != held) {
                            if (held >= 0) cells[held] = sum;
                            sum = cells[cell];
                            held = cell;
                        }
                        const float weight = taps_v[i * WIDTH + dv] * taps_u[i * WIDTH + du];
                        const float4 value = samples[i * LANES + lane];
                        sum.x = fmaf(weight, value.x, sum.x);
                        sum.y = fmaf(weight, value.y, sum.y);
                        sum.z = fmaf(weight, value.z, sum.z);
                        sum.w = fmaf(weight, value.w, sum.w);
                    }
                    if (held >= 0) cells[held] = sum;
                }
            }
        }
    }
    if (loaded) copy(true);
}
