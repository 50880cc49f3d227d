package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/reattach"
)

// rootInode is the inode of the root of every JuiceFS file system.
const rootInode = 1

// configLimit bounds .config, which has about 3 KiB.
const configLimit = 1 << 20

// Requests that a wake process sends: one every wakeInterval, wakeLimit at the
// most, each from a thread of its own because each may wait for ever.
const (
	wakeInterval = 4 * time.Millisecond
	wakeLimit    = 512
)

// Main is the probe process: it answers the question in args and writes the
// answer to stdout as JSON.
func Main(args []string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "tree" {
		if err := answerTree(args[1:]); err != nil {
			return err
		}
		return json.NewEncoder(stdout).Encode(struct{}{})
	}
	if len(args) != 2 {
		return fmt.Errorf("usage: probe ready|usage|wake PATH, probe reattach JOB, or probe tree: %w", errdefs.ErrInvalidArgument)
	}
	var answer any
	var err error
	switch question, path := args[0], args[1]; question {
	case "ready":
		answer, err = ready(path)
	case "usage":
		answer, err = usage(path)
	case "wake":
		wake(path)
		return nil
	case "reattach":
		answer, err = reattach.Main(path)
	default:
		return fmt.Errorf("unknown question %q: %w", question, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(answer)
}

func ready(path string) (Client, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Client{}, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Ino != rootInode {
		return Client{}, fmt.Errorf("%s is not the root of a JuiceFS file system", path)
	}
	return clientConfig(path)
}

// clientConfig reads .config, or .jfs.config under --prefix-internal.
func clientConfig(path string) (Client, error) {
	file, err := os.Open(filepath.Join(path, ".config"))
	if errors.Is(err, os.ErrNotExist) {
		file, err = os.Open(filepath.Join(path, ".jfs.config"))
	}
	if err != nil {
		return Client{}, err
	}
	defer func() { _ = file.Close() }()
	var config struct {
		Version string
		Meta    struct{ Sid uint64 }
		Format  struct{ UUID string }

		Pid, PPid           int
		CommPath, StatePath string
	}
	if err := json.NewDecoder(io.LimitReader(file, configLimit)).Decode(&config); err != nil {
		return Client{}, fmt.Errorf("decode the client's .config: %w", err)
	}
	return Client{
		Version: config.Version, SessionID: config.Meta.Sid, UUID: config.Format.UUID,
		PID: config.Pid, PPID: config.PPid, CommPath: config.CommPath, StatePath: config.StatePath,
	}, nil
}

func usage(path string) (Usage, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Usage{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	return Usage{
		BlockSize: fs.Bsize, Blocks: fs.Blocks, FreeBlocks: fs.Bavail,
		Inodes: fs.Files, FreeInodes: fs.Ffree,
	}, nil
}

func wake(path string) {
	ticker := time.NewTicker(wakeInterval)
	defer ticker.Stop()
	for range wakeLimit {
		go func() {
			var fs unix.Statfs_t
			_ = unix.Statfs(path, &fs) // Only the request matters.
		}()
		<-ticker.C
	}
}
