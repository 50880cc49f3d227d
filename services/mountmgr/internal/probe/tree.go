package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// treeSocket is the descriptor over which the probe process sends its answer.
const treeSocket = 3

// directoryMode is that of a volume's directory, as the existing driver makes
// it: applications run under any uid.
const directoryMode = 0o777

// TreeRequest asks for a directory of a mount.
type TreeRequest struct {
	// MountPath is where the file system is mounted, and Minor the minor number
	// of its device: nothing is made in another one.
	MountPath string
	Minor     uint32
	// Directory is relative and clean. What is missing of it is made.
	Directory string
	ReadOnly  bool
}

// Tree returns a detached clone of the mount that shows one of its directories
// as the root, for move_mount(2); the caller owns it. Whoever holds it touches
// no file of the mount with that. context.DeadlineExceeded when ctx ends.
func (p *Prober) Tree(ctx context.Context, request TreeRequest) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the sockets of a probe: %w", err)
	}
	// What a killed process has sent is closed with its socket.
	ours, theirs := os.NewFile(uintptr(pair[0]), "probe"), os.NewFile(uintptr(pair[1]), "probe")
	defer func() { _ = ours.Close() }()
	defer func() { _ = theirs.Close() }()
	var answer struct{}
	err = p.run(ctx, &answer, question{
		name: "tree", path: request.MountPath, files: []*os.File{theirs},
		args: []string{request.MountPath, strconv.FormatUint(uint64(request.Minor), 10), request.Directory, strconv.FormatBool(request.ReadOnly)},
	})
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w", request.Directory, err)
	}
	return receiveFile(int(ours.Fd()))
}

// answerTree is Tree in the probe process.
func answerTree(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: probe tree PATH MINOR DIRECTORY READ-ONLY: %w", errdefs.ErrInvalidArgument)
	}
	minor, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return fmt.Errorf("minor number %q: %w", args[1], errdefs.ErrInvalidArgument)
	}
	directory, err := openDirectory(args[0], uint32(minor), args[2])
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(directory, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone the mount: %w", err)
	}
	if args[3] == "true" {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return fmt.Errorf("make the clone read-only: %w", err)
		}
	}
	if err := unix.Sendmsg(treeSocket, []byte{0}, unix.UnixRights(tree), nil, 0); err != nil {
		return fmt.Errorf("send the clone: %w", err)
	}
	return nil
}

// openDirectory opens a directory of the mount at root and makes what is
// missing of it. It follows no symbolic link and enters no other mount:
// applications may write everything that is in there.
func openDirectory(root string, minor uint32, directory string) (int, error) {
	current, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", root, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(current, &stat); err != nil {
		return -1, fmt.Errorf("stat %s: %w", root, err)
	}
	if got := unix.Minor(stat.Dev); unix.Major(stat.Dev) != 0 || got != minor {
		return -1, fmt.Errorf("device 0:%d is not mounted at %s", minor, root)
	}
	unix.Umask(0)
	done := ""
	for element := range strings.SplitSeq(directory, "/") {
		done = path.Join(done, element)
		if current, err = enter(current, element); err != nil {
			return -1, fmt.Errorf("directory %s of the file system: %w", done, err)
		}
	}
	return current, nil
}

// enter opens one directory in parent, and makes it when it is missing.
func enter(parent int, name string) (int, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	child, err := unix.Openat2(parent, name, how)
	if !errors.Is(err, unix.ENOENT) {
		return child, err
	}
	switch err := unix.Mkdirat(parent, name, directoryMode); {
	case errors.Is(err, unix.EROFS):
		return -1, fmt.Errorf("is missing, and a read-only mount cannot make it: publish the volume once for writing: %w", err)
	case err != nil && !errors.Is(err, unix.EEXIST): // Another node can make it at the same time.
		return -1, fmt.Errorf("make it: %w", err)
	}
	return unix.Openat2(parent, name, how)
}

// receiveFile takes the one descriptor that was sent to the socket.
func receiveFile(socket int) (*os.File, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive the clone of a mount: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive the clone of a mount: no descriptor came: %w", errdefs.ErrInternal)
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("receive the clone of a mount: no descriptor came: %w", errdefs.ErrInternal)
	}
	return os.NewFile(uintptr(files[0]), "mount"), nil
}
