// What the tests need of other programs: one that shows what it was given, and on Windows one that holds a file open, sets
// variables and kills.
//
//   args A…                 each argument on a line of its own, in brackets; all of them, where the file is called otherwise
//   env NAME…               each variable
//   cat                     stdin to stdout
//   exit N                  ends with N
//   sleep MS                prints `sleeping`, then sleeps
// and on Windows:
//   with NAME=VALUE… -- P…  runs P with these variables; an empty value removes one
//   code P…                 runs P and prints its code in hexadecimal
//   took P…                 runs P and prints how many milliseconds that took
//   killafter MS P…         runs P and ends it by TerminateProcess after so many milliseconds
//   killwhentold P…         runs P and ends it so when a line or the end of stdin is read, unless it ends before
//   hold FILE               opens FILE so that nobody can write, replace or remove it, prints `holding`, and closes it then
//   credentials             each credential of qwenauth in Credential Manager: its target, user and the length of its secret
//   secret TARGET           the secret of a credential
//   forget TARGET           removes a credential
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#include <windows.h>

#include <wincred.h>

static void pause_for(int milliseconds) { Sleep((DWORD)milliseconds); }

// The command line behind the first `words` words of this one, with its quotes.
static char *rest(int words) {
    char *at = GetCommandLineA();
    int quoted = 0;
    while (words > 0 && *at) {
        if (*at == '"') quoted = !quoted;
        if (*at == ' ' && !quoted) {
            while (at[1] == ' ') at++;
            words--;
        }
        at++;
    }
    return at;
}

static HANDLE start_reading(HANDLE input, char *command_line) {
    STARTUPINFOA startup = {sizeof startup};
    PROCESS_INFORMATION process;
    startup.dwFlags = STARTF_USESTDHANDLES;
    startup.hStdInput = input;
    startup.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    startup.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    if (!CreateProcessA(NULL, command_line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &process)) {
        fprintf(stderr, "helper: cannot start %s: %lu\n", command_line, GetLastError());
        exit(99);
    }
    CloseHandle(process.hThread);
    return process.hProcess;
}

static HANDLE start(char *command_line) { return start_reading(GetStdHandle(STD_INPUT_HANDLE), command_line); }

static DWORD finish(HANDLE process) {
    DWORD code = 99;
    WaitForSingleObject(process, INFINITE);
    GetExitCodeProcess(process, &code);
    return code;
}

// Not by `getchar`: the end of this program would wait for its lock.
static DWORD WINAPI until_told(void *unused) {
    char line;
    DWORD length;
    (void)unused;
    return ReadFile(GetStdHandle(STD_INPUT_HANDLE), &line, 1, &length, NULL) ? 0 : 1;
}

static BOOL WINAPI leave_it(DWORD event) {
    (void)event;
    return TRUE;
}

static int windows(int count, char **words) {
    // The program that is run decides what a key means.
    SetConsoleCtrlHandler(leave_it, TRUE);
    if (!strcmp(words[1], "with")) {
        int at = 2;
        for (; at < count && strcmp(words[at], "--"); at++) {
            char *value = strchr(words[at], '=');
            *value++ = 0;
            SetEnvironmentVariableA(words[at], *value ? value : NULL);
        }
        // What ends this program ends the other, as a test expects of the one process it sees.
        HANDLE job = CreateJobObjectA(NULL, NULL), process;
        JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
        limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);
        process = start(rest(at + 1));
        AssignProcessToJobObject(job, process);
        return (int)finish(process);
    }
    if (!strcmp(words[1], "code")) {
        printf("code 0x%08lX\n", finish(start(rest(2))));
        return 0;
    }
    if (!strcmp(words[1], "took")) {
        DWORD started = GetTickCount(), code = finish(start(rest(2)));
        printf("took %lu\n", GetTickCount() - started);
        return (int)code;
    }
    if (!strcmp(words[1], "killafter")) {
        HANDLE process = start(rest(3));
        if (WaitForSingleObject(process, (DWORD)atoi(words[2])) == WAIT_TIMEOUT) TerminateProcess(process, 9);
        return (int)finish(process);
    }
    if (!strcmp(words[1], "killwhentold")) {
        SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, TRUE};
        HANDLE process = start_reading(CreateFileA("NUL", GENERIC_READ, 0, &inherited, OPEN_EXISTING, 0, NULL), rest(2));
        HANDLE either[] = {process, CreateThread(NULL, 0, until_told, NULL, 0, NULL)};
        if (WaitForMultipleObjects(2, either, FALSE, INFINITE) == WAIT_OBJECT_0 + 1) TerminateProcess(process, 9);
        return (int)finish(process);
    }
    if (!strcmp(words[1], "hold")) {
        HANDLE file = CreateFileA(words[2], GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
        if (file == INVALID_HANDLE_VALUE) return 98;
        puts("holding");
        fflush(stdout);
        getchar();
        CloseHandle(file);
        return 0;
    }
    if (!strcmp(words[1], "credentials")) {
        DWORD found = 0, at;
        CREDENTIALA **all;
        if (!CredEnumerateA("qwenauth/*", 0, &found, &all)) return GetLastError() == ERROR_NOT_FOUND ? 0 : 96;
        for (at = 0; at < found; at++) {
            printf("%s %s %lu\n", all[at]->TargetName, all[at]->UserName, all[at]->CredentialBlobSize);
        }
        CredFree(all);
        return 0;
    }
    if (!strcmp(words[1], "secret")) {
        CREDENTIALA *found;
        if (!CredReadA(words[2], CRED_TYPE_GENERIC, 0, &found)) return 95;
        fwrite(found->CredentialBlob, 1, found->CredentialBlobSize, stdout);
        CredFree(found);
        return 0;
    }
    if (!strcmp(words[1], "forget")) return CredDeleteA(words[2], CRED_TYPE_GENERIC, 0) ? 0 : 94;
    return 97;
}
#else
#include <unistd.h>
static void pause_for(int milliseconds) { usleep((useconds_t)milliseconds * 1000); }
static int windows(int count, char **words) {
    (void)count, (void)words;
    return 97;
}
#endif

int main(int count, char **words) {
    int at;
#ifdef _WIN32
    _setmode(0, _O_BINARY), _setmode(1, _O_BINARY);
#endif
    if (!strstr(words[0], "helper")) {
        for (at = 1; at < count; at++) printf("[%s]\n", words[at]);
        return 0;
    }
    if (count < 2) return 97;
    if (!strcmp(words[1], "args")) {
        for (at = 2; at < count; at++) printf("[%s]\n", words[at]);
        return 0;
    }
    if (!strcmp(words[1], "env")) {
        for (at = 2; at < count; at++) printf("%s=%s\n", words[at], getenv(words[at]) ? getenv(words[at]) : "(not set)");
        return 0;
    }
    if (!strcmp(words[1], "cat")) {
        while ((at = getchar()) != EOF) putchar(at);
        return 0;
    }
    if (!strcmp(words[1], "exit")) return atoi(words[2]);
    if (!strcmp(words[1], "sleep")) {
        puts("sleeping");
        fflush(stdout);
        pause_for(atoi(words[2]));
        return 0;
    }
    return windows(count, words);
}
