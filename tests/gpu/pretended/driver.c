// A pretended NVIDIA driver. PRETENDED_DEVICES: how many devices it finds, 1 by default.
#include <stdlib.h>

int cuInit(unsigned flags) { return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }

int cuDeviceGetCount(int *devices) {
  const char *text = getenv("PRETENDED_DEVICES");
  *devices = text ? atoi(text) : 1;
  return 0;
}
