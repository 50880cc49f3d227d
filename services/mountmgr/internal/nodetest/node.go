package nodetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/fdpass"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/facts"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/vault"
)

// Image is the mount image whose client is the newest that the tests have.
const Image = "mount:ce-v1.4.2"

// Driver is the name of the CSI driver.
const Driver = "csi.juicefs.com"

// Node is a mount manager with its vault, kubelet and directories.
type Node struct {
	Kubelet *Kubelet
	// Dir holds everything of the node, on a tmpfs.
	Dir string
	// ShareMode is read by StartManager; volumes do not share at first.
	ShareMode volume.ShareMode
	// Manager is the running mount manager; StartManager replaces it, and the
	// registry of its metrics.
	Manager  *manager.Manager
	Registry *prometheus.Registry
	// BootID replaces that of the kernel for the next StartManager.
	BootID string
	// Pods are the application pods that the next StartManager is told of; nil
	// for nothing.
	Pods *PodList
	// Events is what the mount managers of this node have told.
	Events *Events
	// Spares are the settings of the spare mount pods, of which there are none
	// at first; the next StartManager takes them.
	Spares spare.Options
	// ClassicPods is what the next mount manager makes mount pods as.
	ClassicPods bool

	mortal      *mortal
	tb          testing.TB
	config      atomic.Pointer[volume.Config]
	log         *slog.Logger
	stopManager func()
	stopVault   func()
	// processes is nil on a node whose clients run in pods.
	processes *processes
}

// NewNode starts a node. It needs the programs and clients that `make client`
// and Programs provide, and takes everything away with the test.
func NewNode(tb testing.TB) *Node {
	tb.Helper()
	return newNode(tb, func(*Node) {})
}

func newNode(tb testing.TB, prepare func(*Node)) *Node {
	tb.Helper()
	dir := scratch(tb)
	logFile, err := os.Create(filepath.Join(dir, "node.log"))
	if err != nil {
		tb.Fatal(err)
	}
	n := &Node{Dir: dir, Events: &Events{}, ShareMode: volume.ShareByVolume, tb: tb}
	prepare(n)
	n.log = slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.SetConfig(volume.Config{})
	for _, sub := range []string{"kubelet/pods", "volume", "cache", "launcher", "state", "private", "data", "exchange"} {
		if err := os.MkdirAll(n.path(sub), 0o755); err != nil { //nolint:gosec // as on a node
			tb.Fatal(err)
		}
	}
	if err := errors.Join(
		unix.Mount(n.path("volume"), n.path("volume"), "", unix.MS_BIND, ""),
		// Not a peer of what it covers: each mount in it would be there twice.
		unix.Mount("", n.path("volume"), "", unix.MS_PRIVATE, ""),
		unix.Mount("", n.path("volume"), "", unix.MS_SHARED, ""),
	); err != nil {
		tb.Fatal(err)
	}
	n.installLauncher()
	if err := kernelmount.MountConnections(); err != nil {
		tb.Fatal(err)
	}
	n.Kubelet = NewKubelet(tb, n.path("kubelet"), clients(tb))
	n.StartVault()
	n.StartManager()
	tb.Cleanup(func() {
		n.StopManager()
		n.StopVault()
		n.removeProcesses()
		n.removeMounts()
		if tb.Failed() {
			n.showLogs()
		}
	})
	return n
}

// scratch is a directory on a tmpfs, apart from /tmp, which pods hide.
func scratch(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "node") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (n *Node) path(elements ...string) string {
	return filepath.Join(append([]string{n.Dir}, elements...)...)
}

// KubeletDir is kubelet's root directory.
func (n *Node) KubeletDir() string { return n.path("kubelet") }

// ExchangeDir is the directory of the exchange directories of classic pods.
func (n *Node) ExchangeDir() string { return n.path("exchange") }

// MountRoot is the directory of mounts.
func (n *Node) MountRoot() string { return n.path("volume") }

// Target is a target path as kubelet would choose it; its parent exists.
func (n *Node) Target(name string) string {
	n.tb.Helper()
	dir := n.path("kubelet", "pods", "app-"+name, "volumes", "kubernetes.io~csi", name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as kubelet does
		n.tb.Fatal(err)
	}
	return filepath.Join(dir, "mount")
}

// Secret is the publish Secret of a file system of its own.
func (n *Node) Secret(name string) map[string]string {
	return map[string]string{
		"name": name, "metaurl": "sqlite3://" + n.path("data", name+".db"),
		"storage": "file", "bucket": n.path("data", name) + "/",
	}
}

// Attributes let mount pods see the data of Secret.
func (n *Node) Attributes() map[string]string {
	return map[string]string{"juicefs/host-path": n.path("data")}
}

func (n *Node) installLauncher() {
	n.tb.Helper()
	program := n.path("launcher", "jfs-launch")
	const source = "github.com/juicefs-csi/driver/services/mountmgr/cmd/jfs-launch"
	build := exec.CommandContext(n.tb.Context(), "go", "build", "-o", program, source)
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		n.tb.Fatalf("build jfs-launch: %v\n%s", err, output)
	}
}

// clients are the JuiceFS clients by image.
func clients(tb testing.TB) map[string]string {
	tb.Helper()
	found := make(map[string]string)
	for _, version := range []string{"1.3.1", "1.4.2"} {
		found["mount:ce-v"+version] = clienttest.Binary(tb, version)
	}
	return found
}

// StartVault starts a vault that holds nothing.
func (n *Node) StartVault() {
	n.tb.Helper()
	listener, err := fdpass.Listen(n.path("vault.sock"), 0o600)
	if err != nil {
		n.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	held := vault.New()
	go func() {
		defer close(done)
		if err := vault.NewServer(held, n.log.With(logkeys.Server, "vault")).Serve(ctx, listener); err != nil {
			n.log.Error("vault", logkeys.Error, err)
		}
	}()
	n.stopVault = func() {
		cancel()
		<-done
		for _, entry := range held.List() {
			_ = held.Remove(entry.GetMountId())
		}
	}
}

// StopVault ends the vault as a kill does: its descriptors are closed.
func (n *Node) StopVault() { n.stopVault() }

// StartManager starts a mount manager on what is stored.
func (n *Node) StartManager() {
	n.tb.Helper()
	records, err := store.Open(n.path("state"))
	if err != nil {
		n.tb.Fatal(err)
	}
	secrets, err := store.OpenSecrets(n.path("private"))
	if err != nil {
		n.tb.Fatal(err)
	}
	n.Registry = prometheus.NewPedanticRegistry()
	counters, err := metrics.New(n.Registry)
	if err != nil {
		n.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.mortal = newMortal(n.host(), 0, cancel)
	n.Spares.Node, n.Spares.LauncherDir = "node", n.path("launcher")
	records.Observe(n.mortal.step)
	secrets.Observe(n.mortal.step)
	prober := probe.New("/proc/self/exe")
	prober.Observe = counters.Probed
	parts := manager.Parts{
		Store: records, Secrets: secrets, Log: n.log, Metrics: counters, Events: n.Events,
		Vault:  custody.NewClient(n.path("vault.sock"), n.log),
		Host:   n.mortal,
		Prober: prober,
		Facts:  facts.NewSource(n.Kubelet.Client, Driver, n.KubeletDir()),
		Spares: spare.New(n.Spares, records, mountpod.NewPods(n.Kubelet.Client, Namespace, "node", n.KubeletDir()), n.log),
	}
	if n.Pods != nil {
		parts.Pods = n.Pods
	}
	parts.Classic = classic.New(classic.Options{
		Node: "node", Namespace: Namespace, MountRoot: n.path("volume"), ExchangeDir: n.ExchangeDir(), InPod: n.Kubelet.InPod,
	}, classic.Parts{Client: n.Kubelet.Client, Vault: parts.Vault, Prober: parts.Prober, Log: n.log})
	n.Manager = manager.New(n.options(), parts)
	n.Registry.MustRegister(metrics.NewCollector(n.Manager))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Manager.Run(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("manager", logkeys.Error, err)
		}
	}()
	n.stopManager = func() {
		cancel()
		<-done
		_ = records.Close()
		_ = parts.Classic.Close()
	}
	n.Eventually("the mount manager is ready", func() error { return n.Manager.Ready() })
}

// StopManager ends the mount manager; its mounts go on.
func (n *Node) StopManager() { n.stopManager() }

func (n *Node) options() manager.Options {
	bootID, err := manager.BootID()
	if err != nil {
		n.tb.Fatal(err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		n.tb.Fatal(err)
	}
	if n.BootID != "" {
		bootID = n.BootID
	}
	return manager.Options{
		Mode: n.mode(), ReconcileInterval: 200 * time.Millisecond,
		Node: "node", KubeletDir: n.KubeletDir(), LauncherDir: n.path("launcher"), BootID: bootID, ClassicPods: n.ClassicPods,
		KernelRelease: unix.ByteSliceToString(name.Release[:]),
		Defaults: volume.Defaults{
			CommunityImage: Image, MountRoot: n.path("volume"), CacheDir: n.path("cache"), ShareMode: n.ShareMode,
		},
		Config: func() (volume.Config, error) { return *n.config.Load(), nil },
	}
}

// SetConfig replaces the configuration of the driver, which is empty at first.
func (n *Node) SetConfig(config volume.Config) { n.config.Store(&config) }

// Eventually waits up to 60 s for check to succeed.
func (n *Node) Eventually(what string, check func() error) {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			n.tb.Fatalf("%s: not after 60 s: %v", what, err)
		case <-ticker.C:
		}
	}
}

// Command runs a program that may touch mounts, which the test's own process
// must not, for at most 60 s.
func (*Node) Command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output)
	}
	return string(output), nil
}

// removeMounts aborts the connections that the test has left and unmounts.
func (n *Node) removeMounts() {
	for _, record := range n.Manager.List() {
		_ = kernelmount.Abort(record.MountPath, record.DeviceMinor)
	}
	unmountBelow(n.Dir)
	// The directories below targets are immutable.
	left, _ := filepath.Glob(n.path("kubelet", "pods", "*", "volumes", "*", "*", "mount"))
	for _, target := range left {
		_ = kernelmount.Remove(target)
	}
}

func (n *Node) showLogs() {
	for _, name := range []string{"node.log", "kubelet/pods.log"} {
		text, _ := os.ReadFile(n.path(name))
		n.tb.Logf("%s:\n%s", name, text)
	}
}

// Held fails unless the vault holds the descriptor of a mount.
func (n *Node) Held(mountID string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	held, err := custody.NewClient(n.path("vault.sock"), n.log).List(ctx)
	if err == nil && !held[mountID] {
		err = fmt.Errorf("the vault does not hold mount %s", mountID)
	}
	return err
}
