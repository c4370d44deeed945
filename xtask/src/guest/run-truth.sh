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
# Unquoted: without a filter there shall be no argument, and there are several names.
# shellcheck disable=SC2086
{
    names=$(/payload/truth --list --format=terse $SLOWBURN_TRUTH_FILTER | sed -n 's/: test$//p')
    status=0
    # $1: how many at once; the rest: options of grep that choose the tests.
    run() {
        threads=$1
        shift
        chosen=$(echo "$names" | grep "$@") || return 0
        /payload/truth --test-threads="$threads" --show-output --exact $chosen || status=$?
    }
    # Waits are measured on a quiet machine, and calls are counted while nobody else attaches to their functions. What
    # follows waits for runtimes and for systemd most of the time.
    run 1 -v -e '^runtimes::' -e '^units::'
    run 4 '^runtimes::'
    run 4 '^units::'
}
if [ -e "$SLOWBURN_TRUTH_REPORT" ]; then
    cat "$SLOWBURN_TRUTH_REPORT" >/dev/ttyS2
fi
# On a line of its own, whatever was printed before.
printf '\nguest ended: %s %s\n' "$status" "$(uname -r)"
