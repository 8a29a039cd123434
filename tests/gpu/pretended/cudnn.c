// A pretended cuDNN: each plan that it makes for a convolution is counted as cudnnBackendCreateDescriptor. Answers are zeros.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int pretended_call(const char *name);

// From cudnn_backend.h: a type of attributes, and the names of those that are asked for here.
enum { TYPE_DESCRIPTOR = 15, ENGINE_HEURISTIC_RESULTS = 302, FIRST_NOTE = 1302, LAST_NOTE = 1305 };

size_t cudnnGetVersion(void) { return 92800; }
const char *cudnnGetErrorString(int status) { return "pretended error"; }
void cudnnGetLastErrorString(char *text, size_t size) { strncpy(text, "pretended error", size); }

int cudnnBackendCreateDescriptor(int type, void **descriptor) {
  *descriptor = calloc(1, 64);
  return pretended_call("cudnnBackendCreateDescriptor");
}

int cudnnBackendDestroyDescriptor(void *descriptor) {
  free(descriptor);
  return 0;
}

int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *found, void *values) {
  int none = (name >= FIRST_NOTE && name <= LAST_NOTE) || name == ENGINE_HEURISTIC_RESULTS;
  if (found) *found = none ? 0 : type == TYPE_DESCRIPTOR || wanted > 0;
  if (none || !values || wanted <= 0) return 0;
  if (type != TYPE_DESCRIPTOR) memset(values, 0, 8);
  else if (!*(void **)values) *(void **)values = calloc(1, 64);
  return 0;
}

int cudnnGetStream(void *handle, void **stream) {
  *stream = NULL;
  return 0;
}
