/*
 * pystandby.exe: start pystandby-python, which lies beside this file, with the Python that its first line names, and stay until it
 * has ended. What contrib/linux/pystandby is elsewhere.
 *
 * PostgreSQL takes any status from 1 to 125 for the end of recovery. Those are also what a Python that cannot start ends with, and
 * what the launchers end with that pip, py and venv have for Windows. So pystandby-python ends with 211 where it means 1, and
 * whatever else comes out as 1 to 125 is made 202, which stops the server and loses nothing.
 */

#ifndef UNICODE
#define UNICODE
#endif
#include <windows.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>

enum kind { RESTORE, LOW, PLAIN };

#define ENDS_RECOVERY 211
#define CANNOT_START 202
#define LONGEST 32768 /* characters of a path or a command line */
#define STARTS 10 /* attempts to start Python while Windows is short of something */
#define BETWEEN_STARTS 300 /* milliseconds */

/* Where a status above 125 ends the server's archiver, or takes it down when it has just been promoted. */
static const wchar_t *const low_verbs[] = {L"archive", L"archive-cleanup", L"recovery-end", NULL};
/* Not a restore: other statuses mean other things there. */
static const wchar_t *const plain_verbs[] = {L"trigger", L"status", L"report", L"verify", L"check", L"demo", NULL};

static enum kind kind = RESTORE;

static BOOL is_among(const wchar_t *word, const wchar_t *const *words)
{
    for (; *words; words++)
        if (wcscmp(word, *words) == 0)
            return TRUE;
    return FALSE;
}

static BOOL ends_with(const wchar_t *word, const wchar_t *end)
{
    size_t length = wcslen(word), tail = wcslen(end);
    return length >= tail && wcscmp(word + length - tail, end) == 0;
}

static enum kind kind_of(int count, wchar_t **words)
{
    /* A server's restore from a folder that is called like a verb is one all the same. */
    for (int i = 1; i < count; i++)
        if (ends_with(words[i], L"RECOVERYXLOG") || ends_with(words[i], L"RECOVERYHISTORY"))
            return RESTORE;
    if (count > 1 && is_among(words[1], low_verbs))
        return LOW;
    return count > 1 && is_among(words[1], plain_verbs) ? PLAIN : RESTORE;
}

/* Say why nothing can be done, in the encoding of a server's own messages, the ANSI code page, and end. */
static void fail(const wchar_t *format, ...)
{
    static wchar_t reason[LONGEST], text[LONGEST + 512];
    static char bytes[3 * (LONGEST + 512)];
    DWORD written;
    va_list arguments;

    va_start(arguments, format);
    _vsnwprintf(reason, LONGEST - 1, format, arguments);
    va_end(arguments);
    _snwprintf(text, LONGEST + 511, L"ERROR:  pystandby cannot be started: %ls\nDETAIL:  %ls\nHINT:  Install pystandby again%ls.\n", reason,
               kind == RESTORE ? L"The server stops, and loses nothing, instead of taking this for the end of recovery."
                               : L"Nothing was done.",
               kind == RESTORE ? L", then start the server" : L"");
    HANDLE stderr_handle = GetStdHandle(STD_ERROR_HANDLE);
    if (!WriteConsoleW(stderr_handle, text, (DWORD)wcslen(text), &written, NULL)) {
        int length = WideCharToMultiByte(CP_ACP, 0, text, -1, bytes, sizeof bytes, NULL, NULL);
        if (length > 1)
            WriteFile(stderr_handle, bytes, length - 1, &written, NULL);
    }
    ExitProcess(kind == RESTORE ? CANNOT_START : 1);
}

static BOOL exists(const wchar_t *path)
{
    DWORD attributes = GetFileAttributesW(path);
    return attributes != INVALID_FILE_ATTRIBUTES && !(attributes & FILE_ATTRIBUTE_DIRECTORY);
}

/* Put the interpreter that the script's first line names into path; "#!python" is one beside us or in the folder above. */
static void find_interpreter(const wchar_t *script, const wchar_t *folder, wchar_t *path)
{
    static char line[4096];
    DWORD size = 0;
    HANDLE file = CreateFileW(script, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        fail(L"\"%ls\" cannot be opened: error %lu of Windows", script, GetLastError());
    if (!ReadFile(file, line, sizeof line - 1, &size, NULL))
        fail(L"\"%ls\" cannot be read: error %lu of Windows", script, GetLastError());
    CloseHandle(file);
    line[size] = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (strncmp(line, "#!", 2) != 0)
        fail(L"the first line of \"%ls\" names no interpreter", script);
    char *name = line + 2;
    size_t length = strlen(name);
    if (length > 1 && name[0] == '"' && name[length - 1] == '"') {
        name[length - 1] = 0;
        name++;
    }
    if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, name, -1, path, LONGEST) &&
        !MultiByteToWideChar(CP_ACP, 0, name, -1, path, LONGEST))
        fail(L"the first line of \"%ls\" cannot be read", script);
    if (wcscmp(path, L"python") == 0) {
        _snwprintf(path, LONGEST - 1, L"%lspython.exe", folder);
        if (!exists(path))
            _snwprintf(path, LONGEST - 1, L"%ls..\\python.exe", folder);
    }
}

/* What stands behind the program's name in our own command line, unchanged: nothing is to be quoted a second time. */
static const wchar_t *rest_of_command_line(void)
{
    const wchar_t *rest = GetCommandLineW();
    BOOL quoted = FALSE;
    for (; *rest && (quoted || (*rest != L' ' && *rest != L'\t')); rest++)
        if (*rest == L'"')
            quoted = !quoted;
    return rest;
}

/* PYTHONHOME and the like, which may be meant for PL/Python, keep another Python from starting; -E does not get past all. */
static void forget_python_variables(void)
{
    wchar_t *block = GetEnvironmentStringsW();
    if (!block)
        return;
    for (wchar_t *entry = block; *entry; entry += wcslen(entry) + 1) {
        if (_wcsnicmp(entry, L"PYTHON", 6) != 0 && _wcsnicmp(entry, L"__PYVENV_LAUNCHER__", 19) != 0)
            continue;
        wchar_t *end = wcschr(entry, L'=');
        if (end) {
            *end = 0;
            SetEnvironmentVariableW(entry, NULL);
            *end = L'=';
        }
    }
    FreeEnvironmentStringsW(block);
}

/* Ctrl-C goes to each process of the console: Python says what it means, and we wait for that. */
static BOOL WINAPI leave_to_python(DWORD event)
{
    return event == CTRL_C_EVENT || event == CTRL_BREAK_EVENT;
}

static HANDLE inheritable(DWORD which)
{
    HANDLE handle = GetStdHandle(which);
    if (handle && handle != INVALID_HANDLE_VALUE)
        SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT);
    return handle;
}

/* Have Python end when we do, however that is; what Python itself starts, to look ahead, is not of this job and goes on. */
static HANDLE job_of_our_own(void)
{
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits;
    HANDLE job = CreateJobObjectW(NULL, NULL);
    ZeroMemory(&limits, sizeof limits);
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
    if (job)
        SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);
    return job;
}

/* Whether the error says something of this moment's resources, and nothing of Python: those may be there again shortly. */
static BOOL is_shortage(DWORD error)
{
    return error == ERROR_NOT_ENOUGH_MEMORY || error == ERROR_OUTOFMEMORY || error == ERROR_NO_SYSTEM_RESOURCES ||
           error == ERROR_COMMITMENT_LIMIT || error == ERROR_PAGEFILE_QUOTA || error == ERROR_INTERNAL_ERROR;
}

/* Start Python, which is not to run before it is in our job. */
static void start_python(const wchar_t *interpreter, wchar_t *command, STARTUPINFOW *startup, PROCESS_INFORMATION *process)
{
    for (int left = STARTS - 1;; left--) {
        if (CreateProcessW(interpreter, command, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, startup, process))
            return;
        DWORD error = GetLastError();
        if (left == 0 || !is_shortage(error))
            fail(L"\"%ls\" does not start: error %lu of Windows", interpreter, error);
        Sleep(BETWEEN_STARTS);
    }
}

int wmain(int count, wchar_t **words)
{
    static wchar_t folder[LONGEST], script[LONGEST], interpreter[LONGEST], command[2 * LONGEST];
    STARTUPINFOW startup;
    PROCESS_INFORMATION process;
    DWORD status;

    kind = kind_of(count, words);
    DWORD length = GetModuleFileNameW(NULL, folder, LONGEST);
    if (length == 0 || length >= LONGEST)
        fail(L"its own path cannot be told: error %lu of Windows", GetLastError());
    while (length && folder[length - 1] != L'\\' && folder[length - 1] != L'/')
        length--;
    folder[length] = 0;
    if (_snwprintf(script, LONGEST - 1, L"%lspystandby-python", folder) < 0)
        fail(L"its path is too long");
    find_interpreter(script, folder, interpreter);

    /* -S: the script knows where our packages are. */
    if (_snwprintf(command, LONGEST - 1, L"\"%ls\" -E -S \"%ls\"%ls", interpreter, script, rest_of_command_line()) < 0)
        fail(L"the command line is too long");
    forget_python_variables();
    /* Asks for ENDS_RECOVERY in place of 1, which is what it is only for a server. */
    SetEnvironmentVariableW(L"PYSTANDBY_LAUNCHER", kind == RESTORE ? L"exe" : NULL);
    SetConsoleCtrlHandler(leave_to_python, TRUE);

    ZeroMemory(&startup, sizeof startup);
    startup.cb = sizeof startup;
    startup.dwFlags = STARTF_USESTDHANDLES;
    startup.hStdInput = inheritable(STD_INPUT_HANDLE);
    startup.hStdOutput = inheritable(STD_OUTPUT_HANDLE);
    startup.hStdError = inheritable(STD_ERROR_HANDLE);
    HANDLE job = job_of_our_own();
    start_python(interpreter, command, &startup, &process);
    if (job)
        AssignProcessToJobObject(job, process.hProcess);
    ResumeThread(process.hThread);
    WaitForSingleObject(process.hProcess, INFINITE);
    if (!GetExitCodeProcess(process.hProcess, &status))
        fail(L"its status cannot be told: error %lu of Windows", GetLastError());

    if (kind == RESTORE)
        status = status == ENDS_RECOVERY ? 1 : status >= 1 && status <= 125 ? CANNOT_START : status;
    else if (kind == LOW)
        status = status != 0;
    ExitProcess(status);
}
