// Every kernel for feature maps of bfloat16.

#define SCRL_BF16
#include "f32.cu"
