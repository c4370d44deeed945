#!/bin/sh
# Runs the truth tests in a guest. The first serial port is the kernel's console, the second goes to whoever
# started the guest, the third into a file: first what slowburn says of this kernel, then the report.
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
exec >/dev/ttyS1 2>&1

# One line, whatever it says.
echo "$(/payload/slowburn doctor --json)" >/dev/ttyS2
# Unquoted: without a filter there shall be no argument.
# shellcheck disable=SC2086
/payload/truth --test-threads=1 --show-output $SLOWBURN_TRUTH_FILTER
status=$?
if [ -e "$SLOWBURN_TRUTH_REPORT" ]; then
    cat "$SLOWBURN_TRUTH_REPORT" >/dev/ttyS2
fi
# On a line of its own, whatever was printed before.
printf '\nguest ended: %s %s\n' "$status" "$(uname -r)"
