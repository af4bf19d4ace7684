@echo off
rem Figures of a warm standby for Prometheus, by the Windows exporter's textfile collector: what pystandby-status-task.ps1, or
rem this, has run each minute, as the account that the server runs as:
rem
rem     schtasks /create /tn pystandby-status /sc minute /ru NETWORKSERVICE /tr C:\pystandby\pystandby-status.cmd
rem
rem To be put in place of, in the environment or below: PYSTANDBY, the executable; DATA_DIRECTORY, the standby's; METRICS, the
rem file, in the folder that the exporter reads.

setlocal
if not defined PYSTANDBY set "PYSTANDBY=C:\pystandby\Scripts\pystandby.exe"
if not defined DATA_DIRECTORY set "DATA_DIRECTORY=C:\Program Files\PostgreSQL\18\data"
if not defined METRICS set "METRICS=C:\Program Files\windows_exporter\textfile_inputs\pystandby.prom"
"%PYSTANDBY%" status --pgdata "%DATA_DIRECTORY%" --prometheus "%METRICS%"
exit /b %ERRORLEVEL%
