@echo off
rem archive_command for a primary without pystandby: archive.cmd %p %f
rem
rem     archive_command = 'C:\\pystandby\\archive.cmd "%p" %f'
rem
rem A file is copied under another name, and gets its own when it is whole: nobody sees half of it. What is there already is not
rem replaced, and needs a person, even where it is the same file; "pystandby archive" compares them, and waits for the disk: here a
rem crash of the machine can lose what Windows has not written yet.
rem
rem To be put in place of, in the environment or below: ARCHIVE, the archive's folder, with no backslash at its end.

setlocal
if not defined ARCHIVE set "ARCHIVE=D:\archive"
if "%~2" == "" (
    echo usage: %~nx0 %%p %%f 1>&2
    exit /b 1
)
if exist "%ARCHIVE%\%~2" (
    echo ERROR:  archive "%ARCHIVE%" has a %~2 already 1>&2
    exit /b 1
)
copy /b /y "%~1" "%ARCHIVE%\%~2.part" >nul
if errorlevel 1 exit /b 1
rem Fails where the name has been taken meanwhile.
ren "%ARCHIVE%\%~2.part" "%~2"
if errorlevel 1 exit /b 1
exit /b 0
