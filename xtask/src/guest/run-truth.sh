#!/bin/sh
# Runs the truth tests in a guest. The first serial port is the kernel's console, the second goes to whoever
# started the guest, the third into a file: first what slowburn says of this kernel, then the report.
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
exec >/dev/ttyS1 2>&1

# Emulated processors now and then run stale code when the kernel patches text that they are in: an int3 oops in
# __schedule, some minutes into the tests. Two recordings that record nothing keep every tracepoint as
# it is while hooks come and go, since from two listeners on the kernel patches nothing. Not possible where tracefs is
# locked down.
for name in one two; do
    instance=/sys/kernel/tracing/instances/keep-$name
    mkdir "$instance" && echo 0 >"$instance/tracing_on" || break
    for event in sched/sched_switch sched/sched_wakeup sched/sched_wakeup_new sched/sched_process_exec \
        sched/sched_process_exit task/task_newtask task/task_rename raw_syscalls/sys_enter raw_syscalls/sys_exit; do
        echo 1 >"$instance/events/$event/enable"
    done
done

# One line, whatever it says.
echo "$(/payload/slowburn doctor --json)" >/dev/ttyS2
# Those with units wait for systemd most of the time: several at once, at the end.
# Unquoted: without a filter there shall be no argument, and there are several names.
# shellcheck disable=SC2086
{
    units=$(/payload/truth --list --format=terse $SLOWBURN_TRUTH_FILTER | sed -n 's/^\(units::.*\): test$/\1/p')
    /payload/truth --test-threads=1 --show-output --skip units:: $SLOWBURN_TRUTH_FILTER
    status=$?
    if [ -n "$units" ]; then
        /payload/truth --test-threads=4 --show-output --exact $units || status=$?
    fi
}
if [ -e "$SLOWBURN_TRUTH_REPORT" ]; then
    cat "$SLOWBURN_TRUTH_REPORT" >/dev/ttyS2
fi
# On a line of its own, whatever was printed before.
printf '\nguest ended: %s %s\n' "$status" "$(uname -r)"
