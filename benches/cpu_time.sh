# Control groups that count the CPU time of everything in them, by version 1 or version 2 of the
# interface. To be sourced; groups are made in $cgroups.
if [ -d /sys/fs/cgroup/cpuacct ]; then cgroups=/sys/fs/cgroup/cpuacct; else cgroups=/sys/fs/cgroup; fi

# cpu_microseconds GROUP: leaves the CPU time of a group in $now. It starts no process: that would be
# in the group, too.
cpu_microseconds() {
    local key value
    if [ -f "$1/cpuacct.usage" ]; then
        read -r value <"$1/cpuacct.usage"
        now=$((value / 1000))
    else
        while read -r key value; do if [ "$key" = usage_usec ]; then now=$value; fi; done <"$1/cpu.stat"
    fi
}
