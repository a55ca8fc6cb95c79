#!/bin/bash
# Runs the kernel. When the machine reboots, the kernel executes its own name again, which is this script: what the last
# boot left open is closed first, since a tap that is still open cannot be opened.
boot() {
	local fd
	for fd in /proc/$$/fd/*; do
		fd=${fd##*/}
		if ((fd > 2 && fd != 255)); then eval "exec $fd>&-"; fi
	done
	exec -a "$0" linux.uml "$@"
}
boot "$@"
