@echo off
rem A failover to the warm standby on this machine, by one command: failover.cmd [--fast] DATA_DIRECTORY
rem
rem To be run as an administrator or as the server's account. To be put in place of, in the environment or below: FENCE, the
rem command that makes sure that the old primary takes no more writes and cannot come back by itself, and ends with 0 only when
rem that is so; PYSTANDBY, the executable. WAIT is for how many seconds the server is waited for.
rem
rem Status: 0, the standby takes writes; 1, it does not, and what is said tells why. It can be run again.

setlocal
if not defined PYSTANDBY set "PYSTANDBY=C:\pystandby\Scripts\pystandby.exe"
if not defined WAIT set WAIT=120
set WORD=smart
if "%~1" == "--fast" (
    set WORD=fast
    shift
)
if "%~1" == "" goto usage
if not "%~2" == "" goto usage
if not defined FENCE goto usage

rem What is wrong with the standby is better known before the primary is gone: this refuses what the trigger would be refused for.
"%PYSTANDBY%" trigger %WORD% --dry-run --pgdata "%~1"
if errorlevel 1 exit /b 1

cmd /c "%FENCE%"
if errorlevel 1 (
    echo ERROR:  the old primary is not known to be stopped: no failover 1>&2
    exit /b 1
)

rem Refuses a server that is not in recovery; waits until it takes writes, and runs the CHECKPOINT that archive_timeout needs.
"%PYSTANDBY%" trigger %WORD% --wait %WAIT% --pgdata "%~1"
if errorlevel 1 exit /b 1
exit /b 0

:usage
echo usage: set FENCE=command that stops the old primary, then: %~nx0 [--fast] DATA_DIRECTORY 1>&2
exit /b 1
