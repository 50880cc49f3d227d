package processhost

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// follow tells Watch when a process ends, unless it is forgotten before; once
// for each process. reap is called at its end.
func (h *Host) follow(id string, n note, reap func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.followed[id] {
		return
	}
	h.followed[id] = true
	go func() {
		if err := awaitEnd(n); err != nil {
			h.Log.Error("cannot watch a client", logkeys.Pod, n.Name, logkeys.Error, err)
			return
		}
		reap()
		h.mu.Lock()
		wanted := h.followed[id]
		h.mu.Unlock()
		if wanted {
			h.tellChanged(h.failed(id, n))
		}
	}()
}

// awaitEnd parks only the goroutine, not a thread, so that many processes cost
// little.
func awaitEnd(n note) error {
	pidfd, err := n.Process.Open()
	if err != nil || pidfd == nil {
		return err
	}
	defer func() { _ = pidfd.Close() }()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		count, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && count > 0
	})
}

func (h *Host) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followed, id)
}

func (h *Host) setNew(id string, isNew bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if isNew {
		h.created[id] = true
	} else {
		delete(h.created, id)
	}
}

func (h *Host) isNew(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.created[id]
}

func (h *Host) tellChanged(pod *corev1.Pod) {
	h.mu.Lock()
	changed := h.changed
	h.mu.Unlock()
	if changed != nil {
		changed(pod)
	}
}

func (h *Host) tellRemoved(pod *corev1.Pod) {
	h.mu.Lock()
	removed := h.removed
	h.mu.Unlock()
	if removed != nil {
		removed(pod)
	}
}

// pod is what the manager would hear of a mount pod.
func (n note) pod(id string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: n.Name, UID: types.UID(id),
			Labels: map[string]string{
				mountpod.NameLabel: mountpod.NameValue, mountpod.MountIDLabel: n.MountID,
				mountpod.ModeLabel: string(store.ModeProcess),
			},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// failed is the pod of a process that has ended.
func (h *Host) failed(id string, n note) *corev1.Pod {
	pod := n.pod(id)
	pod.Status.Phase = corev1.PodFailed
	pod.Status.Reason = "ProcessEnded"
	pod.Status.Message = fmt.Sprintf("jfs-launch (process %d) has ended: %s", n.Process.PID, h.lastLines(id))
	return pod
}

// tailSize is how much of a log explains an end, in bytes.
const tailSize = 1024

// lastLines is the end of a process's log, which the process can write anything
// to.
func (h *Host) lastLines(id string) string {
	fd, err := unix.Open(h.logFile(id), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "no log"
	}
	file := os.NewFile(uintptr(fd), "log")
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return "no log"
	}
	text := make([]byte, tailSize)
	count, _ := file.ReadAt(text, max(0, info.Size()-tailSize)) // Its end is no failure.
	return strings.TrimSpace(string(text[:count]))
}
