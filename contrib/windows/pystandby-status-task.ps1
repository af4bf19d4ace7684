# Have pystandby-status.cmd run each minute: pystandby-status-task.ps1, as an administrator. Run again, it replaces the task.
#
# To be put in place of, as parameters: the command; the account, the one that the server runs as and that can read its data.
# The account writes the file as well: it has to have the right to change the exporter's folder.

[CmdletBinding()]
param(
    [string] $Command = 'C:\pystandby\pystandby-status.cmd',
    [string] $Account = 'NT AUTHORITY\NetworkService'
)

$ErrorActionPreference = 'Stop'

$action = New-ScheduledTaskAction -Execute 'cmd.exe' -Argument "/d /c `"`"$Command`"`""
$trigger = New-ScheduledTaskTrigger -Once -At (Get-Date) -RepetitionInterval (New-TimeSpan -Minutes 1)
$principal = New-ScheduledTaskPrincipal -UserId $Account -LogonType ServiceAccount
# A file server that does not answer must not have these pile up: the time in the figures stands still, which is what to alert on.
$limit = New-TimeSpan -Seconds 50
$settings = New-ScheduledTaskSettingsSet -MultipleInstances IgnoreNew -ExecutionTimeLimit $limit -StartWhenAvailable
$task = New-ScheduledTask -Action $action -Trigger $trigger -Principal $principal -Settings $settings
Register-ScheduledTask -TaskName 'pystandby-status' -InputObject $task -Force
