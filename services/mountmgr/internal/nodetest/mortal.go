package nodetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// mortal makes a mount manager die at one of its steps as by SIGKILL. A step is
// before and after each write of the store or the secrets, and before and after
// each call of the API server. The goroutine that takes the deadly step ends
// there, and so does every other at its next step: only their deferred calls
// run, which do what the kernel does for a killed process.
type mortal struct {
	manager.Host

	kill func()
	died chan struct{}

	mu       sync.Mutex
	left     int
	dead     bool
	sessions []*launcher.Session
}

// newMortal dies at the n-th step from now; never when n is 0.
func newMortal(host manager.Host, n int, kill func()) *mortal {
	return &mortal{Host: host, left: n, kill: kill, died: make(chan struct{})}
}

func (m *mortal) dieIn(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = n
}

// step does not return when the manager is dead.
func (m *mortal) step() {
	if m.ends() {
		runtime.Goexit()
	}
}

func (m *mortal) ends() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead || m.left == 0 {
		return m.dead
	}
	if m.left--; m.left > 0 {
		return false
	}
	m.dead = true
	close(m.died)
	m.kill()
	for _, session := range m.sessions {
		session.Close()
	}
	return true
}

func (m *mortal) keep(session *launcher.Session, err error) (*launcher.Session, error) {
	if session == nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		session.Close()
	}
	m.sessions = append(m.sessions, session)
	return session, err
}

// Create is a step before and after.
func (m *mortal) Create(ctx context.Context, spec mountpod.Spec) (string, error) {
	m.step()
	defer m.step()
	return m.Host.Create(ctx, spec)
}

// Connect keeps the session, which ends with the manager.
func (m *mortal) Connect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	return m.keep(m.Host.Connect(ctx, client))
}

// Reconnect is as Connect.
func (m *mortal) Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	return m.keep(m.Host.Reconnect(ctx, client))
}

// Delete is a step before and after.
func (m *mortal) Delete(ctx context.Context, client store.Client, grace time.Duration) error {
	m.step()
	defer m.step()
	return m.Host.Delete(ctx, client, grace)
}

// Annotate is a step before and after.
func (m *mortal) Annotate(ctx context.Context, client store.Client, annotations map[string]*string) error {
	m.step()
	defer m.step()
	return m.Host.Annotate(ctx, client, annotations)
}

// KillManagerAt makes the mount manager die at its n-th step from now, as by
// SIGKILL; see Died. 0 lets it live.
func (n *Node) KillManagerAt(step int) { n.mortal.dieIn(step) }

// Died is closed when the mount manager has died. StopManager and StartManager
// make another one.
func (n *Node) Died() <-chan struct{} { return n.mortal.died }

// Entries is how many files a directory of the node has.
func (n *Node) Entries(directory string) int {
	entries, err := os.ReadDir(n.path(directory))
	if err != nil {
		return -1
	}
	return len(entries)
}

// Count is how many pods run.
func (k *Kubelet) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.pods)
}

// Descendants are the processes that a pod's PID 1 has started, on which it
// depends whether they answer.
func (k *Kubelet) Descendants(uid string) []int {
	return descendants(k.PID(uid))
}

func descendants(pid int) []int {
	var found []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		raw, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(raw)) {
			if child, err := strconv.Atoi(field); err == nil {
				found = append(append(found, child), descendants(child)...)
			}
		}
	}
	return found
}
