// Every kernel for feature maps of float32.

#include "base.cuh"
#include "add.cuh"
#include "batch_norm.cuh"
#include "pool.cuh"
#include "roi_align.cuh"
#include "linear.cuh"
#include "loss.cuh"
#include "optim.cuh"
