// Package manager makes, shares, watches, repairs and removes the JuiceFS
// mounts of one node. Each mount has a goroutine of its own that walks it
// through package lifecycle; the manager finds the mount that a target wants.
package manager

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/cachedir"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Options are the fixed facts of the node and the installation.
type Options struct {
	Node string
	// KubeletDir bounds target paths.
	KubeletDir string
	// LauncherDir is the host directory that holds jfs-launch.
	LauncherDir string
	// CacheRoots are where cache directories of the host are prepared.
	CacheRoots cachedir.Roots
	// BootID names this boot of the kernel: no mount survives it.
	BootID string
	// KernelRelease is part of what decides the INIT request of a connection.
	KernelRelease string
	// Mode is where new clients run.
	Mode store.ClientMode
	// ClassicPods runs every client as the existing driver does.
	ClassicPods bool
	// ReconcileInterval paces the looks at the pods of the node; 0 for 10 s.
	ReconcileInterval time.Duration
	Defaults          volume.Defaults
	// Config returns the present configuration of the driver.
	Config func() (volume.Config, error)
}

// Parts are what the manager works with; it owns none of them.
type Parts struct {
	Store   *store.Store
	Secrets *store.Secrets
	Vault   *custody.Client
	Host    Host
	Prober  *probe.Prober
	Spares  *spare.Pool
	// Classic runs classic clients; nil where there shall be none.
	Classic *classic.Node
	Log     *slog.Logger
	// Pods may be nil: references of pods that are gone are kept then.
	Pods PodLister
	// Facts and Node may be nil: no claim and no label is known then.
	Facts Facts
	Node  Node
	// Metrics may be nil.
	Metrics *metrics.Metrics
	// Events may be nil.
	Events Events
}

// Manager is safe for concurrent use.
type Manager struct {
	Parts
	options Options
	watch   *broadcaster
	pauses  pauses
	formats formats

	running sync.WaitGroup

	// cleanups is told of caches to clean.
	cleanups chan struct{}

	// mu is never held while anything is written or waited for. A mount's own
	// mutex is not taken under it.
	mu     sync.Mutex
	mounts map[string]*mount
	index  index
	// adoption lets one mount pod be adopted at a time; mu is not held for it.
	adoption sync.Mutex
	// adopting are the uids of mount pods that are looked at, or are not ours to
	// adopt.
	adopting map[string]bool
	// busy are the targets that a call works on.
	busy map[string]bool
	// lifetime is the context of the mounts' goroutines; nil before Run.
	lifetime context.Context //nolint:containedctx // It is the life of goroutines that a call starts but must not end.
}

// New returns a manager without mounts; Run brings the recorded ones back.
func New(options Options, parts Parts) *Manager {
	return &Manager{
		Parts: parts, options: options, watch: newBroadcaster(), cleanups: make(chan struct{}, 1),
		mounts: make(map[string]*mount), adopting: make(map[string]bool), busy: make(map[string]bool), index: newIndex(),
	}
}

// Usage reads statfs through a probe process. errdefs.ErrNotFound for a path
// that is no target; context.DeadlineExceeded when the client does not answer.
func (m *Manager) Usage(ctx context.Context, volumeID, path string) (probe.Usage, error) {
	held := m.byTarget(path)
	if held == nil || !held.shows(volumeID, path) {
		return probe.Usage{}, fmt.Errorf("volume %s is not published at %s: %w", volumeID, path, errdefs.ErrNotFound)
	}
	return m.Prober.Usage(ctx, held.id, path)
}

// Get returns a mount by id.
func (m *Manager) Get(id string) (store.Record, error) {
	found, err := m.find(id)
	if err != nil {
		return store.Record{}, err
	}
	return found.snapshot(), nil
}

// List returns all mounts in the order of their ids.
func (m *Manager) List() []store.Record {
	records := make([]store.Record, 0)
	for _, each := range m.all() {
		if record := each.snapshot(); record.State != lifecycle.Gone {
			records = append(records, record)
		}
	}
	sort.Slice(records, func(i, j int) bool { return records[i].ID < records[j].ID })
	return records
}

// Held returns how many connections the vault holds a copy of.
func (m *Manager) Held(ctx context.Context) (int, error) {
	held, err := m.Vault.List(ctx)
	return len(held), err
}

// IdleSpares returns how many spare mount pods wait for a mount.
func (m *Manager) IdleSpares() int { return m.Spares.Idle() }

// Ready fails with errdefs.ErrUnavailable until Run has taken custody of all
// recorded mounts.
func (m *Manager) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lifetime == nil {
		return fmt.Errorf("mount manager is starting: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func (m *Manager) all() []*mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*mount, 0, len(m.mounts))
	for _, each := range m.mounts {
		all = append(all, each)
	}
	return all
}

// byTarget returns the mount of a target, nil when there is none.
func (m *Manager) byTarget(target string) *mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found := m.index.targets[target]; found != nil {
		return found.mount
	}
	return nil
}

// podChanged tells the mount that a pod belongs to. A pod of no mount is a
// left-over of ours and is deleted.
func (m *Manager) podChanged(ctx context.Context, pod *corev1.Pod) {
	if !ours(pod) {
		m.classicPodChanged(ctx, pod)
		return
	}
	if m.Spares.PodChanged(pod) {
		return
	}
	owner := m.ownerOf(pod)
	if owner != nil {
		owner.podChanged(pod)
	}
	// A pod is recorded before it is made; one that is not any more was replaced
	// by a mount manager that died before it could delete it.
	if (owner == nil || !owner.owns(pod.Name)) && pod.DeletionTimestamp == nil {
		if err := m.Host.Delete(ctx, stray(pod), 0); err != nil {
			m.Log.WarnContext(ctx, "delete stray mount pod", logkeys.Pod, pod.Name, logkeys.Error, err)
		}
	}
}

func (m *Manager) podRemoved(pod *corev1.Pod) {
	if !ours(pod) {
		m.leaveAdoption(pod)
	} else if m.Spares.PodRemoved(pod) {
		return
	}
	if owner := m.ownerOf(pod); owner != nil {
		owner.podRemoved(string(pod.UID))
	}
}

func (m *Manager) checkTarget(target string) error {
	root := strings.TrimSuffix(m.options.KubeletDir, "/") + "/"
	switch {
	case target == "":
		return fmt.Errorf("target_path is empty: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(target), filepath.Clean(target) != target, slices.Contains(strings.Split(target, "/"), ".."):
		return fmt.Errorf("target_path %s is not an absolute, clean path: %w", target, errdefs.ErrInvalidArgument)
	case !strings.HasPrefix(target, root):
		return fmt.Errorf("target_path %s is not below the kubelet directory %s: set --kubelet-dir to what kubelet uses: %w",
			target, m.options.KubeletDir, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (m *Manager) lockTarget(target string) (func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[target] {
		return nil, fmt.Errorf("another call works on target_path %s: %w", target, errdefs.ErrAborted)
	}
	m.busy[target] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, target)
	}, nil
}

// BootID reads the name of this boot of the kernel.
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
