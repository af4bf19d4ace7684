@echo off
rem recovery_end_command: removes the trigger file, and what look-ahead left.
rem
rem     recovery_end_command = 'C:\\pystandby\\recovery-end.cmd'
rem
rem A status above 125 would take a server down that has just been promoted, so nothing ends with one.
rem
rem To be put in place of, in the environment or below: PYSTANDBY, the executable; TRIGGER, the trigger file.

setlocal
if not defined PYSTANDBY set "PYSTANDBY=C:\pystandby\Scripts\pystandby.exe"
if not defined TRIGGER set "TRIGGER=D:\standby\failover"
"%PYSTANDBY%" recovery-end -t "%TRIGGER%"
if errorlevel 1 exit /b 1
exit /b 0
