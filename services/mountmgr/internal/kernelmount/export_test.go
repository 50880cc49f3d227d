package kernelmount

// Cover is Replace on a kernel that cannot move beneath a mount.
func Cover(tree, old int, proc string) error { return replace(tree, old, proc, false) }
