// The one function of bcryptprimitives.dll that Rust's standard library takes its random numbers from. wine 8 lacks the
// library; Windows has it since version 7.
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T length) {
    return SystemFunction036(buffer, (ULONG)length);
}
