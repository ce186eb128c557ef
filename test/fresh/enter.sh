#!/bin/sh
# Runs a command in a root file system of its own: enter.sh ROOT FOLDER COMMAND [ARG...]
# Started by run.mjs in new mount and PID namespaces, with which all that is mounted here goes away.
set -eu
root=$1
folder=$2
shift 2

mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for name in stdin:0 stdout:1 stderr:2; do ln -s "fd/${name#*:}" "dev/${name%:*}"; done
# What every system has; KVM and what the lab and the tests use where the host has it.
for name in null zero full random urandom tty \
	kvm vhost-net vhost-vsock vsock net/tun fuse userfaultfd loop-control loop0 loop1 loop2 loop3 loop4 loop5 loop6 loop7; do
	[ -b "/dev/$name" ] && type=b || type=c
	[ -$type "/dev/$name" ] || continue
	# A node of its own, not a mount: what is mounted below a folder is another file system.
	mknod -m "$(stat -c %a "/dev/$name")" "dev/$name" $type $(stat -c '0x%t 0x%T' "/dev/$name")
done

mkdir -p .host
pivot_root . .host
# The host's file system is out of reach from here on.
# The shell stays as the namespace's init: the command must not inherit the processes that others leave.
exec chroot . /bin/sh -c 'umount -l /.host; rmdir /.host; cd "$0"; "$@"; exit $?' "$folder" "$@"
