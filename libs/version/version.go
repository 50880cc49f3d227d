// Package version tells which release a binary belongs to.
package version

// release is set by the linker:
//
//	-ldflags "-X github.com/juicefs-csi/driver/libs/version.release=v1.2.3"
var release = "dev"

// Release is the release of this binary, "dev" when it was built without one.
func Release() string { return release }
