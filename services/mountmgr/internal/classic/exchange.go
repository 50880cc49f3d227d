package classic

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/keeper"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

// supervisorSocket begins the names of the sockets of clients' supervisors.
const supervisorSocket = "fuse_fd_comm."

// exchange is the directory that a classic mount pod shares with its keeper,
// and the keeper. It outlives sessions.
type exchange struct {
	directory *os.File
	server    *keeper.Server
	podUID    string

	mu sync.Mutex
	// supervisors are those that ever asked for the descriptor.
	supervisors []launcher.Process
	// served is the one that got the connection last.
	served launcher.Process
	// session hears what supervisors do; nil while there is none.
	session *Session
}

// deposit keeps the descriptor of one mount in the vault.
type deposit struct {
	node      *Node
	mountID   string
	mountPath string

	mu sync.Mutex
	// minor is the connection; 0 until the first is deposited.
	minor uint32
}

func newDeposit(n *Node, target Target) *deposit {
	return &deposit{node: n, mountID: target.MountID, mountPath: target.MountPath, minor: target.DeviceMinor}
}

// Get returns a duplicate.
func (c *deposit) Get(ctx context.Context) ([]byte, *os.File, error) {
	return c.node.parts.Vault.Get(ctx, c.mountID)
}

// Put notes which connection is mounted now: a client that makes its own mount
// tells nobody its number. It refuses another one than the first: a client that
// found no keeper has mounted a second time.
func (c *deposit) Put(ctx context.Context, settings []byte, fuse *os.File) error {
	minor, err := kernelmount.Minor(c.mountPath)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.minor != 0 && c.minor != minor {
		return fmt.Errorf("%s shows connection %d instead of %d: %w", c.mountPath, minor, c.minor, errdefs.ErrFailedPrecondition)
	}
	if err := c.node.parts.Vault.Put(ctx, c.mountID, settings, minor, fuse); err != nil {
		return err
	}
	c.minor = minor
	return nil
}

// open serves the exchange directory of a client, barred at first, or returns
// the exchange that is served already.
func (n *Node) open(target Target) (*exchange, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := target.Client.Exchange
	if existing := n.exchanges[name]; existing != nil {
		existing.setPod(target.Client.PodUID)
		return existing, nil
	}
	if !isName(name) {
		return nil, fmt.Errorf("exchange directory %q is no name: %w", name, errdefs.ErrInvalidArgument)
	}
	directory, err := openDirectory(n.options.ExchangeDir, name)
	if err != nil {
		return nil, err
	}
	e := &exchange{directory: directory, podUID: target.Client.PodUID}
	e.server, err = keeper.Listen(directory, keeper.Options{
		Custody: newDeposit(n, target),
		Admits:  func(pid int) bool { return e.admits(pid, n.options.InPod) },
		Tell:    e.note, Log: n.parts.Log,
		Offering: func(pid int, fuse *os.File) {
			if err := e.resend(pid, fuse); err != nil {
				n.parts.Log.Warn("requests of the old client wait some seconds", logkeys.Error, err)
			}
		},
	})
	if err != nil {
		_ = directory.Close()
		return nil, err
	}
	n.exchanges[name] = e
	return e, nil
}

// openDirectory makes a directory that only root may enter and opens it without
// following a link.
func openDirectory(parent, name string) (*os.File, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // Others have directories of their own in it.
		return nil, fmt.Errorf("make exchange directory: %w", err)
	}
	path := filepath.Join(parent, name)
	if err := os.Mkdir(path, 0o700); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("make exchange directory: %w", err)
	}
	descriptor, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open exchange directory %s: %w", path, err)
	}
	return os.NewFile(uintptr(descriptor), path), nil
}

func (e *exchange) setPod(uid string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if uid != "" {
		e.podUID = uid
	}
}

// admits checks a supervisor's pod, once it is known.
func (e *exchange) admits(pid int, inPod func(int, string) bool) bool {
	e.mu.Lock()
	uid := e.podUID
	e.mu.Unlock()
	return uid == "" || inPod(pid, uid)
}

// note remembers who asks, before it is answered.
func (e *exchange) note(event keeper.Event) {
	process, err := launcher.Identify(int32(event.PID))
	if err != nil {
		return // It has ended.
	}
	e.mu.Lock()
	if !slices.Contains(e.supervisors, process) {
		e.supervisors = append(e.supervisors, process)
	}
	session := e.session
	e.mu.Unlock()
	if session != nil {
		session.onKeeper(event, process)
	}
}

// resend puts what a dead client has read and not answered back into the queue
// when the supervisor of its pod's next container asks for the connection. Only
// where all processes of a container end with their supervisor is the client
// surely dead.
func (e *exchange) resend(pid int, fuse *os.File) error {
	_, ids, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || len(ids) < 2 {
		return nil //nolint:nilerr // It has ended, or shares the host's process ids.
	}
	e.mu.Lock()
	known := slices.Clone(e.supervisors)
	e.mu.Unlock()
	for _, supervisor := range known[:max(0, len(known)-1)] {
		if supervisor.Running() {
			return nil
		}
	}
	if len(known) < 2 || int(known[len(known)-1].PID) != pid || !e.first(known[len(known)-1]) {
		return nil
	}
	return clientfd.Resend(fuse)
}

// first tells once for each supervisor that it gets the connection; what it
// asks later comes with a client that serves.
func (e *exchange) first(supervisor launcher.Process) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.served
	e.served = supervisor
	return before != supervisor
}

// know remembers a supervisor that was found in another way.
func (e *exchange) know(supervisor launcher.Process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.supervisors, supervisor) {
		e.supervisors = append(e.supervisors, supervisor)
	}
	e.served = supervisor
}

// subscribe makes session the one that hears of supervisors.
func (e *exchange) subscribe(session *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.session = session
}

// leave is for a session that ends; another may have taken its place.
func (e *exchange) leave(session *Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session == session {
		e.session = nil
	}
}

// all returns all supervisors that ever asked, and one more.
func (e *exchange) all(known launcher.Process) []launcher.Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]launcher.Process{known}, e.supervisors...)
}

// borrow asks the supervisors that listen in the directory: there is one, and
// perhaps files of earlier ones.
func (e *exchange) borrow(ctx context.Context) (clientfd.Held, string, error) {
	names, err := e.sockets()
	if err != nil {
		return clientfd.Held{}, "", err
	}
	failed := fmt.Errorf("no supervisor of a client listens in %s: %w", e.directory.Name(), errdefs.ErrUnavailable)
	for _, name := range names {
		held, err := clientfd.Borrow(ctx, e.directory, name)
		if err == nil {
			return held, name, nil
		}
		if !errdefs.IsUnavailable(err) {
			return clientfd.Held{}, name, err
		}
		failed = err
	}
	return clientfd.Held{}, "", failed
}

func (e *exchange) sockets() ([]string, error) {
	entries, err := os.ReadDir(e.directory.Name())
	if err != nil {
		return nil, fmt.Errorf("list exchange directory: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), supervisorSocket) && entry.Type() == os.ModeSocket {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// readState reads what a client left of its open files.
func (e *exchange) readState(name string) (launcher.State, error) {
	descriptor, err := unix.Openat2(int(e.directory.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open the client's state %s: %w", name, err)
	}
	file := os.NewFile(uintptr(descriptor), name)
	defer func() { _ = file.Close() }()
	return launcher.ReadState(file)
}

// writeState puts what a predecessor has left where the client will look.
func (e *exchange) writeState(state launcher.State) error {
	if err := e.remove(stateName); err != nil {
		return err
	}
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	descriptor, err := unix.Openat(int(e.directory.Fd()), stateName, flags, 0o600)
	if err != nil {
		return fmt.Errorf("write state of the predecessor: %w", err)
	}
	file := os.NewFile(uintptr(descriptor), stateName)
	_, err = file.Write(state)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write state of the predecessor: %w", err)
	}
	return nil
}

func (e *exchange) remove(name string) error {
	err := unix.Unlinkat(int(e.directory.Fd()), name, 0)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
