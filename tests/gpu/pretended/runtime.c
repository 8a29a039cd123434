// A pretended CUDA runtime: ONNX Runtime's host code runs on it, kernels do nothing. Every call is counted. The host can't
// touch device memory, so code that takes a device pointer for a host pointer crashes; copies go through a second mapping.
//
// PRETENDED_DEVICES: how many devices there are, 1 by default. PRETENDED_MEMORY_MB: memory of each.
// PRETENDED_FAULT_FILE: once this file exists, every call returns the error whose number it contains.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#undef cudaGetDeviceProperties

#define PAGE 4096UL
#define PUBLIC __attribute__((visibility("default")))
#define CHECK                                  \
  int failed = pretended_call(__func__);       \
  if (failed) return (cudaError_t)failed

// Counts and faults. A pattern is the name of a function, or the beginning of names with * after it.

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *name; long calls; } counts[4096];
static int names;
static struct { char pattern[64]; int error; long after; } fault;
static __thread int last_error;

static int matches(const char *pattern, const char *name) {
  size_t length = strlen(pattern);
  if (length && pattern[length - 1] == '*') return !strncmp(name, pattern, length - 1);
  return !strcmp(name, pattern);
}

static void count(const char *name) {
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < names && strcmp(counts[i].name, name)) i++;
  if (i == names && names < 4096) counts[names++].name = strdup(name);
  if (i < 4096) counts[i].calls++;
  pthread_mutex_unlock(&lock);
}

static int number(const char *variable, int otherwise) {
  const char *text = getenv(variable);
  return text ? atoi(text) : otherwise;
}

// Counts a call; returns the error that it fails with, or 0.
PUBLIC int pretended_call(const char *name) {
  count(name);
  const char *path = getenv("PRETENDED_FAULT_FILE");
  FILE *file = path ? fopen(path, "r") : NULL;
  if (file) {
    if (fscanf(file, "%d", &last_error) != 1) last_error = cudaErrorIllegalAddress;
    fclose(file);
    return last_error;
  }
  if (!fault.error || !matches(fault.pattern, name)) return 0;
  if (fault.after > 0) return fault.after--, 0;
  return last_error = fault.error;
}

// From now on the calls of these functions fail, after so many that succeed; with the error 0, none does.
PUBLIC void pretended_fail(const char *pattern, int error, long after) {
  snprintf(fault.pattern, sizeof fault.pattern, "%s", pattern);
  fault.error = error;
  fault.after = after;
  last_error = 0;
}

PUBLIC void pretended_forget(void) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < names; i++) counts[i].calls = 0;
  pthread_mutex_unlock(&lock);
}

PUBLIC long pretended_calls(const char *pattern) {
  long calls = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < names; i++)
    if (matches(pattern, counts[i].name)) calls += counts[i].calls;
  pthread_mutex_unlock(&lock);
  return calls;
}

// While a thread captures, the calls of others fail and spoil the capture, unless they have exchanged their mode.

static pthread_t capturer;
static int capturing, spoiled;
static __thread int mode = cudaStreamCaptureModeGlobal;

static int prohibited(void) {
  if (!capturing || mode != cudaStreamCaptureModeGlobal || pthread_equal(capturer, pthread_self())) return 0;
  return spoiled = cudaErrorStreamCaptureUnsupported;
}

#define CHECK_UNSAFE                           \
  CHECK;                                       \
  if (prohibited()) return cudaErrorStreamCaptureUnsupported

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *new) {
  CHECK;
  int old = mode;
  mode = *new;
  *new = old;
  return cudaSuccess;
}

// Memory

static struct block { char *at, *shadow; size_t size; int on_host; } blocks[1 << 16];
static int nblocks;
static size_t used;

PUBLIC size_t pretended_used(void) { return used; }

static size_t capacity(void) { return (size_t)number("PRETENDED_MEMORY_MB", 80 << 10) << 20; }

static struct block *find(const void *p) {
  for (int i = 0; i < nblocks; i++)
    if (blocks[i].size && (char *)p >= blocks[i].at && (char *)p < blocks[i].at + blocks[i].size) return &blocks[i];
  return NULL;
}

static void add(char *at, char *shadow, size_t size, int on_host) {
  int i = 0;
  while (i < nblocks && blocks[i].size) i++;
  if (i == nblocks) nblocks++;
  blocks[i] = (struct block){at, shadow, size, on_host};
}

static void *readable(const void *p) {
  struct block *block = find(p);
  return block ? block->shadow + ((char *)p - block->at) : (void *)p;
}

cudaError_t cudaMalloc(void **p, size_t size) {
  CHECK_UNSAFE;
  size = size ? (size + PAGE - 1) & ~(PAGE - 1) : PAGE;
  if (used + size > capacity()) return cudaErrorMemoryAllocation;
  int file = memfd_create("device", 0);
  if (file < 0 || ftruncate(file, size)) return cudaErrorMemoryAllocation;
  char *at = mmap(NULL, size, PROT_NONE, MAP_SHARED, file, 0);
  char *shadow = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  pthread_mutex_lock(&lock);
  add(at, shadow, size, 0);
  used += size;
  pthread_mutex_unlock(&lock);
  *p = at;
  return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
  CHECK_UNSAFE;
  pthread_mutex_lock(&lock);
  struct block *block = find(p);
  if (block && !block->on_host) {
    munmap(block->at, block->size);
    munmap(block->shadow, block->size);
    used -= block->size;
    block->size = 0;
  }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags) {
  CHECK_UNSAFE;
  size = (size + PAGE) & ~(PAGE - 1);
  *p = aligned_alloc(PAGE, size);
  pthread_mutex_lock(&lock);
  add(*p, *p, size, 1);
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t size) { return cudaHostAlloc(p, size, 0); }

cudaError_t cudaFreeHost(void *p) {
  CHECK_UNSAFE;
  pthread_mutex_lock(&lock);
  struct block *block = find(p);
  if (block) block->size = 0;
  pthread_mutex_unlock(&lock);
  free(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  CHECK_UNSAFE;
  memcpy(readable(to), readable(from), size);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  CHECK;
  memcpy(readable(to), readable(from), size);
  return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t size) {
  CHECK_UNSAFE;
  memset(readable(p), value, size);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t size, cudaStream_t stream) {
  CHECK;
  memset(readable(p), value, size);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  CHECK_UNSAFE;
  *total = capacity();
  *available = *total - used;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *p) {
  CHECK;
  struct block *block = find(p);
  memset(attributes, 0, sizeof *attributes);
  attributes->type = !block ? cudaMemoryTypeUnregistered : block->on_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->devicePointer = (void *)p;
  return cudaSuccess;
}

// Devices

static __thread int current;

cudaError_t cudaGetDeviceCount(int *devices) { CHECK; *devices = number("PRETENDED_DEVICES", 1); return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { CHECK; *device = current; return cudaSuccess; }

cudaError_t cudaSetDevice(int device) {
  CHECK;
  if (device < 0 || device >= number("PRETENDED_DEVICES", 1)) return cudaErrorInvalidDevice;
  char name[32];
  snprintf(name, sizeof name, "cudaSetDevice:%d", device);
  count(name);
  current = device;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { CHECK; *version = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { CHECK; *version = 13000; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  CHECK;
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Pretended GPU");
  p->major = 9;
  p->totalGlobalMem = capacity();
  p->multiProcessorCount = 132;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = p->sharedMemPerMultiprocessor = 228 << 10;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->l2CacheSize = 50 << 20;
  p->asyncEngineCount = 3;
  p->concurrentKernels = p->unifiedAddressing = p->memoryPoolsSupported = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  CHECK;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 228 << 10; break;
    default: *value = 1;
  }
  return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : error ? "pretended error" : "no error";
}
const char *cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
cudaError_t cudaPeekAtLastError(void) { return last_error ? last_error : pretended_call(__func__); }

cudaError_t cudaGetLastError(void) {
  cudaError_t error = cudaPeekAtLastError();
  last_error = 0;
  return error;
}

cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **function, unsigned version, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *result) {
  CHECK;
  *function = NULL;
  if (result) *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// Streams, events and graphs. A capture records nothing.

static long handles = 0x1000;

cudaError_t cudaStreamCreate(cudaStream_t *stream) { CHECK; *stream = (cudaStream_t)++handles; return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreate(stream); }
cudaError_t cudaEventCreate(cudaEvent_t *event) { CHECK; *event = (cudaEvent_t)++handles; return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return cudaEventCreate(event); }

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
  CHECK;
  *ms = 1;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CHECK_UNSAFE;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  CHECK;
  capturer = pthread_self();
  capturing = 1;
  spoiled = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  CHECK;
  usleep(1000);  // a real one takes time too, in which others call
  capturing = 0;
  if (spoiled) return cudaErrorStreamCaptureInvalidated;
  *graph = (cudaGraph_t)++handles;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  CHECK;
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
  CHECK;
  *executable = (cudaGraphExec_t)++handles;
  return cudaSuccess;
}

// Kernels

static __thread struct { dim3 grid, block; size_t shared; void *stream; } launch;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
  launch.grid = grid, launch.block = block, launch.shared = shared, launch.stream = stream;
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  *grid = launch.grid, *block = launch.block, *shared = launch.shared, *(void **)stream = launch.stream;
  return cudaSuccess;
}

void **__cudaRegisterFatBinary(void *binary) {
  static void *handle[2];
  return handle;
}
void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
void __cudaRegisterFunction(
    void **handle, const char *host, char *device, const char *name, int limit, void *tid, void *bid, void *block,
    void *grid, int *warp) {}
void __cudaRegisterVar(
    void **handle, char *host, char *device, const char *name, int external, size_t size, int constant, int global) {}

cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  CHECK;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
  CHECK;
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks_each, const void *function, int threads, size_t shared, unsigned flags) {
  CHECK;
  *blocks_each = 2;
  return cudaSuccess;
}
