# A failover to the warm standby on this machine: failover.ps1 DATA_DIRECTORY -Fence { ... } [-Fast] [-Wait SECONDS]
#
# To be run as an administrator or as the server's account. The script block Fence makes sure that the old primary takes no more
# writes and cannot come back by itself, such as
#
#     { Invoke-Command old-primary { Stop-Service postgresql-x64-18; Set-Service postgresql-x64-18 -StartupType Disabled } }
#
# and throws where that is not so. To be put in place of: the executable, as -Pystandby.
#
# Status: 0, the standby takes writes; 1, it does not, and what is said tells why. It can be run again.

[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $DataDirectory,
    [Parameter(Mandatory)] [scriptblock] $Fence,
    [switch] $Fast,
    [int] $Wait = 120,
    [string] $Pystandby = 'C:\pystandby\Scripts\pystandby.exe'
)

$ErrorActionPreference = 'Stop'
$word = if ($Fast) { 'fast' } else { 'smart' }

# What is wrong with the standby is better known before the primary is gone: this refuses what the trigger would be refused for.
& $Pystandby trigger $word --dry-run --pgdata $DataDirectory
if ($LASTEXITCODE -ne 0) { exit 1 }

try {
    & $Fence
}
catch {
    [Console]::Error.WriteLine("ERROR:  the old primary is not known to be stopped: no failover`nDETAIL:  $_")
    exit 1
}

# Refuses a server that is not in recovery; waits until it takes writes, and runs the CHECKPOINT that archive_timeout needs.
& $Pystandby trigger $word --wait $Wait --pgdata $DataDirectory
if ($LASTEXITCODE -ne 0) { exit 1 }
exit 0
