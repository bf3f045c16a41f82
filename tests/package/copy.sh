# For those who source it. copy FOLDER: a copy of this machine's file system at FOLDER/root, in memory, without what the kernel
# shows there but for the processes of this name space. Takes root, and a mount namespace that goes with it.
copy() {
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$1"
    mkdir "$1/written" "$1/work" "$1/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$1/written,workdir=$1/work" "$1/root"
    mount -t proc proc "$1/root/proc"
}
