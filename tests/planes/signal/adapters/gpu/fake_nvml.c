/* A libnvidia-ml.so.1 with two GPUs for tests: the real ctypes path of nvidia-ml-py, no driver needed.
 * FAKE_NVML says what is wrong with the first GPU; the second one is always well.
 * Return codes: 0 success, 3 not supported, 9 driver not loaded, 15 GPU is lost, 999 unknown.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

static int is(const char *fault) {
    const char *set = getenv("FAKE_NVML");
    return set != NULL && strcmp(set, fault) == 0;
}
static int ill(void *gpu) { return gpu == (void *)1; }

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return is("no_driver") ? 9 : 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "some error"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    if (is("hang")) sleep(1000);
    *count = is("no_gpu") ? 0 : 2;
    return is("broken") ? 999 : 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **gpu) { *gpu = (void *)(size_t)(index + 1); return 0; }
int nvmlDeviceGetUUID(void *gpu, char *text, unsigned int size) {
    if (ill(gpu) && is("nameless")) return 15;
    snprintf(text, size, "GPU-%zu", (size_t)gpu);
    return 0;
}
int nvmlDeviceGetName(void *gpu, char *text, unsigned int size) { (void)gpu; snprintf(text, size, "Fake H100"); return 0; }
int nvmlDeviceGetUtilizationRates(void *gpu, utilization_t *u) {
    if (ill(gpu) && is("lost")) return 15;
    u->gpu = 75; u->memory = 10;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *gpu, memory_t *m) { (void)gpu; m->total = 80ULL << 30; m->used = 20ULL << 30; m->free = 60ULL << 30; return 0; }
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned int *celsius) { (void)gpu; (void)sensor; *celsius = 54; return 0; }
int nvmlDeviceGetPowerUsage(void *gpu, unsigned int *milliwatts) { if (ill(gpu) && is("no_power")) return 3; *milliwatts = 612300; return 0; }
int nvmlDeviceGetTotalEccErrors(void *gpu, int type, int counter, unsigned long long *count) {
    (void)counter;
    if (ill(gpu) && (is("no_ecc") || is("no_health"))) return 3;
    if (ill(gpu) && is("ecc_unreadable")) return 999;
    *count = ill(gpu) && is("ecc") && type == 1 ? 2 : 0;
    return 0;
}
int nvmlDeviceGetRemappedRows(void *gpu, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failed) {
    if (ill(gpu) && is("no_health")) return 3;
    *corrected = *uncorrected = 0;
    *pending = ill(gpu) && is("remap_pending");
    *failed = ill(gpu) && is("remap_failed");
    return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *reasons) {
    if (ill(gpu) && is("no_health")) return 3;
    *reasons = ill(gpu) && is("hot") ? 0x40 : 0x4;
    return 0;
}
