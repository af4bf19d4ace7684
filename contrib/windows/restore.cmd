@echo off
rem restore_command that stops the server, instead of promoting it, where pystandby.exe is missing: restore.cmd %f %p %r
rem
rem     restore_command = 'C:\\pystandby\\restore.cmd %f "%p" %r'
rem
rem PostgreSQL takes every status from 1 to 125 for the end of recovery, and cmd.exe ends with 1 for a program that is not there.
rem (It does for this file as well: keep it where it is.)
rem
rem To be put in place of, in the environment or below: PYSTANDBY, the executable; ARCHIVE, the archive's folder, and TRIGGER, the
rem trigger file, with no backslash at their end. In here a backslash stands once, and a percent sign that is meant twice.

setlocal
if not defined PYSTANDBY set "PYSTANDBY=C:\pystandby\Scripts\pystandby.exe"
if not defined ARCHIVE set "ARCHIVE=D:\archive"
if not defined TRIGGER set "TRIGGER=D:\standby\failover"
if not exist "%PYSTANDBY%" (
    echo ERROR:  "%PYSTANDBY%" is not there: the server stops, and loses nothing 1>&2
    exit /b 202
)
"%PYSTANDBY%" -s 2 -t "%TRIGGER%" "%ARCHIVE%" %*
exit /b %ERRORLEVEL%
