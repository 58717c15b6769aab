// RoIAlign to one cell: the mean of the map at a grid of points over the box, each read bilinearly.
// The weight of a cell is a product of a share for its row and one for its column. RoIs are [R, 5]:
// view, x0, y0, x1, y1 in pixels of the view; one without size is a point, read where it is.

// Cells of a map, one way, and RoIs of a view, that shared memory is laid out for.
#define MOST_CELLS 64
#define MOST_ROIS 64

// The map's cells for one pixel of the view.
#define SPATIAL_SCALE (1.0f / 32.0f)

// Whether a RoI has no size.
__device__ inline bool is_point(const float *roi) { return roi[1] == roi[3] && roi[2] == roi[4]; }

// The shares of `cells` cells in the mean over a box side from `start` to `end`, in pixels of the
// view.
__device__ inline void side_shares(float start, float end, bool is_point, int cells,
                                   float *shares) {
    for (int cell = 0; cell < cells; ++cell) shares[cell] = 0.0f;
    start *= SPATIAL_SCALE;
    // torchvision, `aligned=False`: a box is at least a cell. A point is a cell around it.
    const float length = fmaxf(end * SPATIAL_SCALE - start, 1.0f);
    if (is_point) start -= 1.0f;
    const float points = ceilf(length);
    for (int point = 0; point < (int)points; ++point) {
        float place = start + ((float)point + 0.5f) * length / points;
        // A point more than a cell outside counts as zero, others as the border.
        if (place < -1.0f || place > (float)cells) continue;
        place = fmaxf(place, 0.0f);
        const int low = (int)place;
        if (low >= cells - 1) {
            shares[cells - 1] += 1.0f / points;
        } else {
            const float fraction = place - (float)low;
            shares[low] += (1.0f - fraction) / points;
            shares[low + 1] += fraction / points;
        }
    }
}

// Map [n, height, width, channels] → vectors [gridDim.x, channels]. A block a RoI.
COOPERATIVE(roi_align, const scalar *map, const float *rois, scalar *vectors, int height, int width,
            int channels) {
    __shared__ float rows[MOST_CELLS];
    __shared__ float columns[MOST_CELLS];
    const float *roi = rois + 5 * (long long)blockIdx.x;
    if (threadIdx.x == 0) side_shares(roi[2], roi[4], is_point(roi), height, rows);
    if (threadIdx.x == 32) side_shares(roi[1], roi[3], is_point(roi), width, columns);
    __syncthreads();
    const scalar *image = map + (long long)roi[0] * height * width * channels;
    for (int channel = threadIdx.x * LANES; channel < channels; channel += blockDim.x * LANES) {
        float sum[LANES] = {};
        for (int cell = 0; cell < height * width; ++cell) {
            const float share = rows[cell / width] * columns[cell % width];
            if (share == 0.0f) continue;
            float value[LANES];
            load_pack(image + (long long)cell * channels + channel, value);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) sum[lane] += share * value[lane];
        }
        store_pack(vectors + (long long)blockIdx.x * channels + channel, sum);
    }
}

// The gradient of the map. A block a view: each cell adds up the view's RoIs in their order. RoIs
// are sorted by view, at most MOST_ROIS a view.
COOPERATIVE(roi_align_backward, const scalar *gradient, const float *rois, int roi_count,
            scalar *dmap, int height, int width, int channels) {
    __shared__ float rows[MOST_ROIS][MOST_CELLS];
    __shared__ float columns[MOST_ROIS][MOST_CELLS];
    __shared__ double scratch[THREADS];
    const float view = (float)blockIdx.x;
    int before = 0, own = 0;
    for (int index = threadIdx.x; index < roi_count; index += blockDim.x) {
        before += rois[5 * (long long)index] < view;
        own += rois[5 * (long long)index] == view;
    }
    const int begin = (int)block_sum(before, scratch);
    const int count = min((int)block_sum(own, scratch), MOST_ROIS);
    for (int index = threadIdx.x; index < 2 * count; index += blockDim.x) {
        const float *roi = rois + 5 * (long long)(begin + index / 2);
        if (index % 2 == 0) {
            side_shares(roi[2], roi[4], is_point(roi), height, rows[index / 2]);
        } else {
            side_shares(roi[1], roi[3], is_point(roi), width, columns[index / 2]);
        }
    }
    __syncthreads();
    scalar *image = dmap + (long long)blockIdx.x * height * width * channels;
    for (int channel = threadIdx.x * LANES; channel < channels; channel += blockDim.x * LANES) {
        for (int cell = 0; cell < height * width; ++cell) {
            float sum[LANES] = {};
            for (int roi = 0; roi < count; ++roi) {
                const float share = rows[roi][cell / width] * columns[roi][cell % width];
                if (share == 0.0f) continue;
                float value[LANES];
                load_pack(gradient + (long long)(begin + roi) * channels + channel, value);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) sum[lane] += share * value[lane];
            }
            store_pack(image + (long long)cell * channels + channel, sum);
        }
    }
}
