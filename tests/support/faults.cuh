// Kernels that are wrong on purpose: the tests ask of each that the shim sees its fault.
#pragma once

struct FaultShared {
    unsigned counts[8], others[8];  // the address sanitizer sees no bound between the two
};

extern "C" __global__ void fault_barrier_in_branch(unsigned* out) {
    if (threadIdx.x % 2 == 0) __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void fault_two_barriers(unsigned* out) {
    if (threadIdx.x % 2 == 0)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void fault_past_shared(unsigned* out, int index) {
    SHARED(FaultShared, shared);
    shared.counts[index] = 1;
    out[threadIdx.x] = shared.counts[index];
}

extern "C" __global__ void fault_past_end(unsigned* out, int index) { out[index] = 1; }

extern "C" __global__ void fault_lost_update(unsigned* out) {
    OTHERS_MAY_RUN();
    const unsigned old = *out;
    OTHERS_MAY_RUN();
    *out = old + 1;
}
