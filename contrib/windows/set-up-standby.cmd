@echo off
rem Make a base backup a warm standby: set-up-standby.cmd DATA_DIRECTORY CONFIGURATION
rem
rem The base backup is made first, by one of
rem
rem     pg_basebackup -h primary -U postgres -D D:\pgdata -X none -c fast
rem     robocopy \\primary\d$\pgdata D:\pgdata /mir        of a primary that is stopped
rem
rem CONFIGURATION is postgresql-warm-standby.conf with what its comments tell to put in place; it is included, so that it can be
rem changed later. Then start the service, and see with "pystandby check --pgdata DATA_DIRECTORY" and "pystandby status --pgdata
rem DATA_DIRECTORY" that all is well.

setlocal
if "%~2" == "" (
    echo usage: %~nx0 DATA_DIRECTORY CONFIGURATION 1>&2
    exit /b 1
)
if not exist "%~1\PG_VERSION" (
    echo ERROR:  "%~1" is not a data directory 1>&2
    exit /b 1
)
if not exist "%~2" (
    echo ERROR:  "%~2" is not there 1>&2
    exit /b 1
)
rem What only a running server has: a copy of a primary that was not stopped, or the wrong folder.
if exist "%~1\postmaster.pid" (
    echo ERROR:  "%~1" has a postmaster.pid: a server may be running there 1>&2
    exit /b 1
)
rem Run again, it includes anew what is included already.
set INCLUDED=
if exist "%~1\warm-standby.conf" set INCLUDED=yes
copy /y "%~2" "%~1\warm-standby.conf" >nul
if errorlevel 1 exit /b 1
if not defined INCLUDED (
    echo.>>"%~1\postgresql.conf"
    echo include 'warm-standby.conf'>>"%~1\postgresql.conf"
)
if errorlevel 1 exit /b 1
type nul >"%~1\recovery.signal"
if not exist "%~1\recovery.signal" exit /b 1
exit /b 0
