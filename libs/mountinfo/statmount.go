package mountinfo

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// errTable says that the kernel cannot tell about one mount alone, or not
// without a risk to wait, so that the table of all mounts has to be read.
var errTable = errors.New("the table of mounts is needed")

// Bits of statmount.mask and of statx, from linux/mount.h; statmount(2) is in
// Linux since 6.8, the subtype since 6.14.
const (
	wantSuper   = 0x1
	wantMount   = 0x2
	wantRoot    = 0x8
	wantPoint   = 0x10
	wantType    = 0x20
	wantOptions = 0x80
	wantSubtype = 0x100
	wantSource  = 0x200
	wantAll     = wantSuper | wantMount | wantRoot | wantPoint | wantType | wantOptions | wantSubtype | wantSource
	// haveAll is what an answer must have; a type can be without subtype, and
	// a file system without options.
	haveAll = wantSuper | wantMount | wantRoot | wantPoint | wantType | wantSource
)

// resolveCached is RESOLVE_CACHED of linux/openat2.h: fail instead of asking a
// file system.
const resolveCached = 0x20

// fuseMagic is FUSE_SUPER_MAGIC of linux/magic.h.
const fuseMagic = 0x65735546

// request is struct mnt_id_req in its first version.
type request struct {
	size  uint32
	_     uint32
	id    uint64
	param uint64
}

// answer is struct statmount; strings are offsets into text.
type answer struct {
	size              uint32
	options           uint32
	mask              uint64
	major, minor      uint32
	magic             uint64
	superFlags        uint32
	fsType            uint32
	id, parent        uint64
	oldID, oldParent  uint32
	attributes        uint64
	propagation       uint64
	peerGroup, master uint64
	propagateFrom     uint64
	root              uint32
	point             uint32
	namespace         uint64
	subtype           uint32
	source            uint32
	_                 [384]byte
	text              [3584]byte
}

// visible returns the mount at path from the kernel without reading all mounts.
// It asks no file system of type FUSE: what is above path is taken from the
// kernel's cache or belongs to another type, and of the mount itself only what
// the kernel knows. It fails with errTable where that is not possible.
func visible(path string) (Entry, error) {
	directory, name := filepath.Split(path)
	if name == "" || directory == "" {
		return Entry{}, errTable
	}
	parent, err := unix.Openat2(unix.AT_FDCWD, directory, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolveCached | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return Entry{}, unopened(err)
	}
	defer unix.Close(parent) //nolint:errcheck // O_PATH
	id, _, err := identify(parent)
	if err != nil {
		return Entry{}, err
	}
	above, err := statmount(id)
	if err != nil || above.magic == fuseMagic {
		return Entry{}, errTable
	}
	return child(parent, name, path)
}

// unopened is what an error of openat2 says of the mount: nothing is mounted
// where nothing is.
func unopened(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return errdefs.ErrNotFound
	}
	return errTable
}

// child returns the mount at name in the directory parent.
func child(parent int, name, path string) (Entry, error) {
	descriptor, err := unix.Openat2(parent, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return Entry{}, unopened(err)
	}
	defer unix.Close(descriptor) //nolint:errcheck // O_PATH
	id, isRoot, err := identify(descriptor)
	if err != nil {
		return Entry{}, err
	}
	if !isRoot {
		return Entry{}, errdefs.ErrNotFound
	}
	found, err := statmount(id)
	if err != nil {
		return Entry{}, err
	}
	entry := found.entry()
	if entry.Path != path {
		return Entry{}, errTable
	}
	return entry, nil
}

// identify returns the identity of the mount that an open file is on, which the
// kernel never uses again, and whether the file is the root of that mount. It
// wants nothing of the file that a file system would have to be asked for.
func identify(descriptor int) (id uint64, isRoot bool, err error) {
	var stat unix.Statx_t
	err = unix.Statx(descriptor, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &stat)
	if err != nil || stat.Mask&unix.STATX_MNT_ID_UNIQUE == 0 || stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return 0, false, errTable
	}
	return stat.Mnt_id, stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func statmount(id uint64) (*answer, error) {
	wanted := request{id: id, param: wantAll}
	wanted.size = uint32(unsafe.Sizeof(wanted))
	found := new(answer)
	_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT,
		uintptr(unsafe.Pointer(&wanted)), //nolint:gosec // x/sys has no function for this system call
		uintptr(unsafe.Pointer(found)),   //nolint:gosec // as above
		unsafe.Sizeof(*found), 0, 0, 0)
	if errno != 0 || found.mask&haveAll != haveAll {
		return nil, errTable
	}
	return found, nil
}

// entry translates what the kernel said to what it writes into
// /proc/self/mountinfo.
func (a *answer) entry() Entry {
	entry := Entry{
		ID: int(a.oldID), Parent: int(a.oldParent), Major: a.major, Minor: a.minor,
		Path: a.string(a.point), Root: a.string(a.root), FSType: a.string(a.fsType), Source: a.string(a.source),
		Options: mountOptions(a.attributes), SuperOptions: superOptions(a.superFlags),
	}
	if a.mask&wantSubtype != 0 {
		if subtype := a.string(a.subtype); subtype != "" {
			entry.FSType += "." + subtype
		}
	}
	if a.mask&wantOptions != 0 {
		if options := a.string(a.options); options != "" {
			entry.SuperOptions = append(entry.SuperOptions, strings.Split(options, ",")...)
		}
	}
	return entry
}

// string returns the text that begins at an offset and ends with a zero byte.
func (a *answer) string(offset uint32) string {
	if int(offset) >= len(a.text) {
		return ""
	}
	text := a.text[offset:]
	if end := slices.Index(text, 0); end >= 0 {
		text = text[:end]
	}
	return string(text)
}

func mountOptions(attributes uint64) []string {
	options := []string{"rw"}
	if attributes&unix.MOUNT_ATTR_RDONLY != 0 {
		options[0] = "ro"
	}
	for _, each := range []struct {
		mask, value uint64
		name        string
	}{
		{unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NOSUID, "nosuid"},
		{unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NODEV, "nodev"},
		{unix.MOUNT_ATTR_NOEXEC, unix.MOUNT_ATTR_NOEXEC, "noexec"},
		{unix.MOUNT_ATTR__ATIME, unix.MOUNT_ATTR_NOATIME, "noatime"},
		{unix.MOUNT_ATTR_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
		{unix.MOUNT_ATTR__ATIME, unix.MOUNT_ATTR_RELATIME, "relatime"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"},
		{unix.MOUNT_ATTR_IDMAP, unix.MOUNT_ATTR_IDMAP, "idmapped"},
	} {
		if attributes&each.mask == each.value {
			options = append(options, each.name)
		}
	}
	return options
}

func superOptions(flags uint32) []string {
	options := []string{"rw"}
	if flags&unix.MS_RDONLY != 0 {
		options[0] = "ro"
	}
	for _, each := range []struct {
		flag uint32
		name string
	}{{unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"}, {unix.MS_LAZYTIME, "lazytime"}} {
		if flags&each.flag != 0 {
			options = append(options, each.name)
		}
	}
	return options
}
