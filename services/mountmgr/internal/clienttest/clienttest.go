// Package clienttest gives tests a real JuiceFS client, a file system and kernel
// mounts that are gone afterwards whatever the test did.
package clienttest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// DefaultVersion is the client that tests use unless told otherwise.
const DefaultVersion = "1.4.2"

// Binary returns the client of a version, which `make tools` puts into the
// cache; the variable JUICEFS_BIN names another one for DefaultVersion.
func Binary(tb testing.TB, version string) string {
	tb.Helper()
	path := os.Getenv("JUICEFS_BIN") //nolint:forbidigo // tests are told by the environment where things are
	if path == "" || version != DefaultVersion {
		path = filepath.Join(cache(tb), "juicefs", version, "juicefs")
	}
	if _, err := os.Stat(path); err != nil { //nolint:gosec // that is what the variable is for
		tb.Fatalf("no JuiceFS client %s: %v (fetch it with make, or set JUICEFS_BIN)", version, err)
	}
	return path
}

func cache(tb testing.TB) string {
	tb.Helper()
	directory := os.Getenv("JUICEFS_CSI_CACHE") //nolint:forbidigo // as above
	if directory != "" {
		return directory
	}
	user, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(user, "juicefs-csi")
}

// FileSystem is a formatted JuiceFS file system in a temporary directory.
type FileSystem struct {
	// Meta is the URL of its metadata, Name its name.
	Meta, Name string
	// Binary formatted it.
	Binary string
	// Directory is free for the test's use: cache and logs.
	Directory string
}

// Format makes a file system whose removed files are gone at once.
func Format(tb testing.TB, binary string) FileSystem {
	tb.Helper()
	directory := tb.TempDir()
	fs := FileSystem{Meta: "sqlite3://" + filepath.Join(directory, "meta.db"), Name: "testvol", Binary: binary, Directory: directory}
	command := exec.CommandContext(tb.Context(), binary, "format", "--storage", "file",
		"--bucket", filepath.Join(directory, "data")+"/", "--trash-days", "0", fs.Meta, fs.Name)
	if output, err := command.CombinedOutput(); err != nil {
		tb.Fatalf("format: %v\n%s", err, output)
	}
	return fs
}

// ClientArgv is the command line of a client that mounts fs at mountPoint.
func (f FileSystem) ClientArgv(mountPoint string) []string {
	return []string{
		f.Binary, "mount", "--no-usage-report", "--backup-meta=0", "--metrics=127.0.0.1:0",
		"--cache-dir=memory", "--cache-size=64", "--log=" + filepath.Join(f.Directory, "client.log"), f.Meta, mountPoint,
	}
}

// Mount is a kernel mount that nobody serves yet.
type Mount struct {
	Path  string
	minor uint32
}

// NewMount makes a kernel mount as the mount manager does and returns its
// descriptor, which the caller closes as soon as it has passed it on: a process
// that holds it must never touch the path.
func NewMount(tb testing.TB) (*Mount, *os.File) {
	tb.Helper()
	// Not os.OpenFile, which would make the description non-blocking for all.
	descriptor, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("open /dev/fuse: %v", err)
	}
	path := tb.TempDir()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=131072", descriptor)
	if err := unix.Mount("JuiceFS:testvol", path, "fuse.juicefs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(descriptor) //nolint:errcheck // unused
		tb.Fatalf("mount: %v", err)
	}
	mount := &Mount{Path: path}
	tb.Cleanup(func() { mount.Abort(tb) })
	mount.minor = minor(tb, path)
	return mount, os.NewFile(uintptr(descriptor), "fuse")
}

// minor finds the device number without asking the file system itself.
func minor(tb testing.TB, path string) uint32 {
	tb.Helper()
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &stat); err != nil {
		tb.Fatalf("statx: %v", err)
	}
	return stat.Dev_minor
}

// Unmount takes the mount away; what serves it ends.
func (m *Mount) Unmount(tb testing.TB) {
	tb.Helper()
	if err := unix.Unmount(m.Path, unix.MNT_DETACH); err != nil {
		tb.Errorf("umount: %v", err)
	}
}

// Abort takes the mount away and ends its connection, so that nothing can hang
// in it.
func (m *Mount) Abort(tb testing.TB) {
	tb.Helper()
	connections := "/sys/fs/fuse/connections"
	if entries, err := os.ReadDir(connections); err == nil && len(entries) == 0 {
		unix.Mount("none", connections, "fusectl", 0, "") //nolint:errcheck // already mounted, without connections
	}
	abort := filepath.Join(connections, strconv.FormatUint(uint64(m.minor), 10), "abort")
	// Once it is unmounted, the number may belong to another connection.
	if entry, err := mountinfo.ByPath(m.Path); err == nil && entry.Minor == m.minor {
		os.WriteFile(abort, []byte("1"), 0) //nolint:errcheck // gone already
	}
	unix.Unmount(m.Path, unix.MNT_DETACH) //nolint:errcheck // unmounted already
}

// Config is what the tests need of the client's .config file.
type Config struct {
	Meta      struct{ Sid uint64 }
	Version   string
	Pid, PPid int
}

// Config reads the client's .config file through another process.
func (m *Mount) Config(tb testing.TB) Config {
	tb.Helper()
	var config Config
	if err := json.Unmarshal([]byte(m.Run(tb, "cat", ".config")), &config); err != nil {
		tb.Fatalf("decode .config: %v", err)
	}
	return config
}

// Run runs a program in the root of the mount with a time limit of 20 seconds
// and returns its output.
func (m *Mount) Run(tb testing.TB, argv ...string) string {
	tb.Helper()
	// timeout changes nothing about its child's way to the mount, and ends even
	// what waits for an answer of the client.
	command := exec.CommandContext(tb.Context(), "timeout", append([]string{"--signal=KILL", "20", "env", "--chdir=" + m.Path}, argv...)...)
	output, err := command.CombinedOutput()
	if err != nil {
		tb.Fatalf("%v: %v\n%s", argv, err, output)
	}
	return string(output)
}
