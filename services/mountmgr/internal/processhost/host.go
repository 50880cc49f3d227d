// Package processhost runs each jfs-launch with its client as processes of the
// node, confined like a mount pod, in a control group of their own. They outlive
// the mount manager, whose next instance finds them by their directories.
package processhost

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/cgroup"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/sandbox"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Options are where things are on the node.
type Options struct {
	// Dir holds a directory for each process; it must be on a tmpfs, since
	// clients keep the files of their Secret there.
	Dir string
	// ClientDir holds a directory for each mount image, see package clientdir.
	ClientDir string
	// Namespaces is a directory of /proc whose namespaces mnt and net the
	// processes start from; empty for those of the mount manager.
	Namespaces string
	// Cgroups are where the processes get groups.
	Cgroups cgroup.Tree
	Log     *slog.Logger
}

// Host is safe for concurrent use.
type Host struct {
	Options

	mu sync.Mutex
	// followed are the processes whose end is awaited, by id.
	followed map[string]bool
	// created are the ids that Create works on.
	created map[string]bool
	// changed and removed are those of Watch while it runs.
	changed, removed func(*corev1.Pod)
}

// New does nothing on the node yet.
func New(options Options) *Host {
	return &Host{Options: options, followed: make(map[string]bool), created: make(map[string]bool)}
}

// Create starts a confined jfs-launch for spec and returns its id. It returns
// before it listens.
func (h *Host) Create(ctx context.Context, spec mountpod.Spec) (string, error) {
	limits, err := limitsOf(spec)
	if err != nil {
		return "", err
	}
	id := randomID()
	box, err := h.box(id, spec)
	if err != nil {
		return "", err
	}
	h.setNew(id, true)
	defer h.setNew(id, false)
	err = h.makeDirs(id)
	if err == nil {
		err = h.Cgroups.Make(id, limits)
	}
	if err == nil {
		err = h.start(id, spec, box)
	}
	if err != nil {
		err = fmt.Errorf("start client %s: %w", spec.Name, err)
		return "", errors.Join(err, h.remove(context.WithoutCancel(ctx), id))
	}
	return id, nil
}

func randomID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // Never fails: see crypto/rand.
	return hex.EncodeToString(raw[:])
}

func (h *Host) makeDirs(id string) error {
	for _, dir := range []string{h.socketDir(id), h.rootDir(id)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// start starts the process, which does nothing before it is known where to
// find it again.
func (h *Host) start(id string, spec mountpod.Spec, box sandbox.Box) error {
	n := note{Name: spec.Name, MountID: spec.MountID}
	log, err := os.OpenFile(h.logFile(id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer func() { _ = log.Close() }()
	child, err := sandbox.Start(filepath.Join(spec.LauncherDir, "jfs-launch"), []string{"enter"}, log, nil)
	if err != nil {
		return err
	}
	n.Process, err = launcher.Identify(int32(child.Process.Pid))
	if err == nil {
		err = h.Cgroups.Put(id, child.Process.Pid)
	}
	if err == nil {
		err = h.writeNote(id, n)
	}
	if err == nil {
		err = child.Confine(box, command())
	}
	if err != nil {
		child.Abandon()
		_ = child.Process.Kill()
		_ = child.Wait()
		return err
	}
	h.follow(id, n, func() { _ = child.Wait() })
	return nil
}

// Connect waits until the jfs-launch of a client greets, or ctx ends.
func (h *Host) Connect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	if err := checkID(client.PodUID); err != nil {
		return nil, err
	}
	session, err := launcher.ConnectAt(ctx, h.Dir, socketPath(client.PodUID), client.RunAsUser)
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", client.PodName, err)
	}
	return session, nil
}

// Reconnect is Connect for a jfs-launch that must be listening already.
func (h *Host) Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	if err := checkID(client.PodUID); err != nil {
		return nil, err
	}
	session, err := launcher.ReconnectAt(ctx, h.Dir, socketPath(client.PodUID), client.RunAsUser)
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", client.PodName, err)
	}
	return session, nil
}

// Annotate does nothing: processes have no annotations, and the store is the
// truth.
func (*Host) Annotate(context.Context, store.Client, map[string]*string) error { return nil }

// Delete ends the process of a client, and with it all that it has started,
// and removes what belonged to it; it returns when that is done. With a grace
// it gets SIGTERM first and may take that long. One that is gone is no error.
func (h *Host) Delete(ctx context.Context, client store.Client, grace time.Duration) error {
	id := client.PodUID
	if id == "" { // Its mount manager ended before it could record it.
		id = h.find(client.PodName)
	}
	if id == "" {
		return nil
	}
	if err := checkID(id); err != nil {
		return err
	}
	n, err := h.readNote(id)
	if errors.Is(err, fs.ErrNotExist) {
		n, err = note{Name: client.PodName, Process: client.Launcher}, nil
	}
	if err != nil {
		return err
	}
	h.forget(id)
	if grace > 0 {
		if err := n.Process.Signal(unix.SIGTERM); err != nil {
			return err
		}
	}
	if err := n.Process.AwaitEnd(ctx, grace); err != nil {
		return err
	}
	if err := h.remove(ctx, id); err != nil {
		return err
	}
	h.tellRemoved(n.pod(id))
	return nil
}

// remove takes away what belonged to a process that has ended.
func (h *Host) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := h.Cgroups.Remove(ctx, id)
	if removal := os.RemoveAll(h.path(id)); removal != nil {
		err = errors.Join(err, fmt.Errorf("remove directory: %w", removal))
	}
	return err
}

// removeTimeout bounds the removal of what an ended process has left.
const removeTimeout = 10 * time.Second

// Watch calls changed for every process that runs or has ended and was not
// deleted, and whenever one ends, and removed when one is deleted, until ctx
// ends.
func (h *Host) Watch(ctx context.Context, changed, removed func(*corev1.Pod)) error {
	h.mu.Lock()
	h.changed, h.removed = changed, removed
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.changed, h.removed = nil, nil
		h.mu.Unlock()
	}()
	if err := h.clean(ctx); err != nil {
		return err
	}
	ids, err := h.list()
	if err != nil {
		return err
	}
	for _, id := range ids {
		n, err := h.readNote(id)
		if err != nil {
			continue // It was deleted just now.
		}
		h.follow(id, n, func() {})
		h.tellChanged(n.pod(id))
	}
	<-ctx.Done()
	return nil
}

// clean removes what was left by a mount manager that died while it created
// or deleted a process.
func (h *Host) clean(ctx context.Context) error {
	ids, err := h.list()
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, id := range ids {
		_, err := h.readNote(id)
		known[id] = err == nil
	}
	for _, id := range append(ids, h.Cgroups.List()...) {
		if known[id] || h.isNew(id) {
			continue
		}
		if err := h.remove(ctx, id); err != nil {
			h.Log.WarnContext(ctx, "remove the rest of a client", logkeys.Path, h.path(id), logkeys.Error, err)
		}
	}
	return nil
}

// validID is what randomID makes.
const validID = `^[0-9a-f]{16}$`

func checkID(id string) error {
	if !regexp.MustCompile(validID).MatchString(id) {
		return fmt.Errorf("%q names no process of a client: %w", id, errdefs.ErrNotFound)
	}
	return nil
}
