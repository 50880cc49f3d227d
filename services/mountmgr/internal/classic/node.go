// Package classic runs JuiceFS clients as the existing driver does: in a
// privileged mount pod, where the client mounts by itself below its own
// supervisor, and a keeper outside holds a copy of the descriptor. It is for
// clients that cannot do without, for the mount pods that the existing driver
// has left on a node, and for the way back to it; docs/adr/0010 has the reasons.
//
// Nothing that comes from a mount pod is trusted: its files are opened without
// following links, its processes are looked up by their control group, and its
// script is never executed here.
package classic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

const (
	// endTimeout bounds the wait for the end of processes that were killed.
	endTimeout = 10 * time.Second
	// reconnectTimeout is how long a supervisor that runs may take to answer:
	// the alternative would be to kill its client.
	reconnectTimeout = 15 * time.Second
	// answerTimeout is how long a client that serves may take to answer.
	answerTimeout = 3 * time.Second
	// reconnectInterval paces attempts to reach it.
	reconnectInterval = 200 * time.Millisecond
	// forgetDelay is how long the keeper of a deleted pod keeps who is left of
	// it waiting, until kubelet has ended them.
	forgetDelay = 2 * time.Minute
)

// Options are the fixed facts of the node and the installation.
type Options struct {
	Node      string
	Namespace string
	// MountRoot is the host directory of mounts.
	MountRoot string
	// ExchangeDir is the host directory of the exchange directories.
	ExchangeDir string
	// Launcher is where jfs-launch comes from in mount pods that run it.
	Launcher mountpod.Launcher
	// InPod says whether a process belongs to a pod; nil looks at its control
	// group.
	InPod func(pid int, podUID string) bool
}

// Parts are what a Node works with; it owns none of them.
type Parts struct {
	Client kubernetes.Interface
	Vault  *custody.Client
	Prober *probe.Prober
	Log    *slog.Logger
}

// Node runs the classic clients of one node. It is safe for concurrent use.
type Node struct {
	options Options
	parts   Parts

	mu        sync.Mutex
	exchanges map[string]*exchange
}

// New returns a node that serves nothing yet.
func New(options Options, parts Parts) *Node {
	if options.InPod == nil {
		options.InPod = inPod
	}
	return &Node{options: options, parts: parts, exchanges: make(map[string]*exchange)}
}

// Close ends all keepers; clients go on, and the next node takes them up.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var failed error
	for name, e := range n.exchanges {
		failed = errors.Join(failed, e.server.Close(), e.directory.Close())
		delete(n.exchanges, name)
	}
	return failed
}

// Start is one start of a client in a new mount pod.
type Start struct {
	Target Target
	Spec   mountpod.Spec
	// ForExistingDriver makes the pod so that the existing driver can adopt it:
	// with a script. Others run jfs-launch, which becomes the client.
	ForExistingDriver bool
	// Credentials is the publish Secret.
	Credentials map[string]string
	// SessionID is what the client shall continue; 0 for a session of its own.
	SessionID uint64
	// SkipStages starts the client alone: the file system is in use.
	SkipStages bool
	// Fresh clients make the mount; others take the connection over.
	Fresh bool
	// Wait keeps the client from the connection until Release; State is what its
	// predecessor has left otherwise, nil for nothing.
	Wait  bool
	State launcher.State
}

// Create makes the pod and returns its uid, and a session that tells when its
// client serves, or waits.
func (n *Node) Create(ctx context.Context, s Start) (*Session, string, error) {
	pod, err := n.build(s)
	if err != nil {
		return nil, "", err
	}
	secret, err := n.secret(s)
	if err == nil {
		err = n.putSecret(ctx, secret)
	}
	if err != nil {
		return nil, "", err
	}
	e, err := n.open(s.Target)
	if err != nil {
		return nil, "", err
	}
	session := newSession(n, s.Target, e, launchv1.Status_STATE_STARTING_CLIENT)
	session.waits = s.Wait
	e.subscribe(session)
	if err := prepare(e, s); err != nil {
		session.Close()
		return nil, "", err
	}
	made, err := n.parts.Client.CoreV1().Pods(n.options.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		session.Close()
		return nil, "", fmt.Errorf("create mount pod %s/%s: %w", n.options.Namespace, pod.Name, mountpod.Native(err))
	}
	e.setPod(string(made.UID))
	return session, string(made.UID), nil
}

func prepare(e *exchange, s Start) error {
	if s.State != nil {
		if err := e.writeState(s.State); err != nil {
			return err
		}
	}
	if !s.Wait {
		e.server.Open(s.Fresh)
	}
	return nil
}

func (n *Node) putSecret(ctx context.Context, secret *corev1.Secret) error {
	secrets := n.parts.Client.CoreV1().Secrets(n.options.Namespace)
	_, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write secret %s/%s of a classic mount pod: allow the mount manager to create and update secrets there: %w",
			n.options.Namespace, secret.Name, mountpod.Native(err))
	}
	return nil
}

// Reconnect takes up a client that serves: its connection is in the vault, its
// keeper serves again, and its supervisor is known. errdefs.ErrUnavailable when
// it does not run, or never got the connection.
func (n *Node) Reconnect(ctx context.Context, target Target) (*Session, error) {
	e, err := n.open(target)
	if err != nil {
		return nil, err
	}
	supervisor, err := n.awaitTakeUp(ctx, target, e)
	if err != nil {
		return nil, err
	}
	session := newSession(n, target, e, launchv1.Status_STATE_SERVING)
	e.subscribe(session)
	e.know(supervisor)
	session.follow(supervisor)
	return session, nil
}

// awaitTakeUp tries again while the supervisor that is recorded runs and listens,
// or while a client serves whose connection nobody holds yet.
func (n *Node) awaitTakeUp(ctx context.Context, target Target, e *exchange) (launcher.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, reconnectTimeout)
	defer cancel()
	ticker := time.NewTicker(reconnectInterval)
	defer ticker.Stop()
	for {
		if err := target.checkMount(); err != nil {
			return launcher.Process{}, err
		}
		supervisor, err := n.takeUp(ctx, target, e)
		if err == nil || isFinal(err) || !errdefs.IsNotFound(err) && !target.Client.Launcher.Running() {
			return supervisor, err
		}
		select {
		case <-ctx.Done():
			e.server.Settle()
			return launcher.Process{}, err
		case <-ticker.C:
		}
	}
}

func isFinal(err error) bool { return errdefs.IsUnavailable(err) || errdefs.IsPermissionDenied(err) }

// takeUp deposits the connection of a client that has it, opens the gate and
// returns the client's supervisor. The gate is opened for nobody else: a
// successor that waits must go on waiting.
func (n *Node) takeUp(ctx context.Context, target Target, e *exchange) (launcher.Process, error) {
	held, socket, err := e.borrow(ctx)
	switch {
	case err == nil:
		defer held.Close()
		supervisor, err := n.identify(held.PID, target.Client)
		if err == nil {
			err = n.deposit(ctx, target, held)
		}
		e.server.Open(false)
		return supervisor, err
	case errdefs.IsNotFound(err):
		return n.giveBack(ctx, target, e, socket)
	case target.Client.Exchange != ownExchange(target.Client.PodUID):
		return launcher.Process{}, err
	case target.Client.Launcher.Running():
		return target.Client.Launcher, nil
	}
	return findInit(target.Client.PodUID, n.options.InPod)
}

// deposit tries again when the vault has ended just now: the supervisor answers
// nobody before its keeper has the connection.
func (n *Node) deposit(ctx context.Context, target Target, held clientfd.Held) error {
	err := newDeposit(n, target).Put(ctx, held.Settings, held.Fuse)
	if errdefs.IsUnavailable(err) && n.parts.Vault.Await(ctx) == nil {
		err = newDeposit(n, target).Put(ctx, held.Settings, held.Fuse)
	}
	return err
}

func (n *Node) identify(pid int, client store.Client) (launcher.Process, error) {
	if !n.options.InPod(pid, client.PodUID) {
		return launcher.Process{}, fmt.Errorf("process %d listens for mount pod %s and is not in it: %w",
			pid, client.PodName, errdefs.ErrPermissionDenied)
	}
	return launcher.Identify(int32(pid))
}

// giveBack gives the vault's copy to a supervisor that holds none, when its
// client serves: it was taken by somebody who then ended. A client that found no
// keeper when it started waits for its own mount instead.
func (n *Node) giveBack(ctx context.Context, target Target, e *exchange, socket string) (launcher.Process, error) {
	answers, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := n.parts.Prober.Ready(answers, target.MountPath); err != nil {
		return launcher.Process{}, fmt.Errorf("client of mount pod %s has no connection: %w (%w)",
			target.Client.PodName, errdefs.ErrUnavailable, err)
	}
	settings, fuse, err := n.parts.Vault.Get(ctx, target.MountID)
	// A client that has just begun to serve may be about to give its connection
	// to its supervisor, which asks the keeper then and waits for its answer.
	e.server.Open(errdefs.IsNotFound(err))
	if err != nil {
		return launcher.Process{}, err
	}
	defer func() { _ = fuse.Close() }()
	pid, err := clientfd.Give(ctx, e.directory, socket, clientfd.Held{Settings: settings, Fuse: fuse})
	if err != nil {
		return launcher.Process{}, err
	}
	return n.identify(pid, target.Client)
}

// End makes sure that the client is gone and gets the connection never again:
// only then may another one have it.
func (n *Node) End(ctx context.Context, target Target) error {
	e, err := n.open(target)
	if err != nil {
		return err
	}
	e.server.Bar()
	var failed error
	processes := e.all(target.Client.Launcher)
	if first, err := findInit(target.Client.PodUID, n.options.InPod); err == nil {
		processes = append(processes, first) // One that never asked.
	}
	for _, process := range processes {
		failed = errors.Join(failed, process.Signal(unix.SIGKILL))
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for _, process := range processes {
		failed = errors.Join(failed, process.Wait(ctx))
	}
	return failed
}

// Delete deletes the pod of a client; one that is gone is no error. Whoever of
// it still asks for the connection waits for ever.
func (n *Node) Delete(ctx context.Context, client store.Client, grace time.Duration) error {
	n.mu.Lock()
	if e := n.exchanges[client.Exchange]; e != nil {
		e.server.Bar()
	}
	n.mu.Unlock()
	pods := n.parts.Client.CoreV1().Pods(n.options.Namespace)
	patch := []byte(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + Finalizer + `"]}}`)
	_, err := pods.Patch(ctx, client.PodName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		seconds := int64(grace / time.Second)
		options := metav1.DeleteOptions{GracePeriodSeconds: &seconds}
		if client.PodUID != "" {
			precondition := types.UID(client.PodUID)
			options.Preconditions = &metav1.Preconditions{UID: &precondition}
		}
		err = pods.Delete(ctx, client.PodName, options)
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mount pod %s/%s: %w", n.options.Namespace, client.PodName, mountpod.Native(err))
	}
	time.AfterFunc(forgetDelay, func() { n.forget(client.Exchange) })
	return n.deleteSecret(ctx, client)
}

// forget ends the keeper of a pod that is gone and removes its directory. Whoever
// of it is still there must not be told that there is no connection.
func (n *Node) forget(name string) {
	n.mu.Lock()
	e := n.exchanges[name]
	delete(n.exchanges, name)
	n.mu.Unlock()
	if e == nil {
		return
	}
	for _, process := range e.all(launcher.Process{}) {
		_ = process.Signal(unix.SIGKILL) // It is gone as a rule.
	}
	// Links in it are removed and not followed.
	if err := errors.Join(e.server.Close(), e.directory.Close(), os.RemoveAll(e.directory.Name())); err != nil {
		n.parts.Log.Warn("remove exchange directory", logkeys.Path, e.directory.Name(), logkeys.Error, err)
	}
}

// deleteSecret removes the credentials of a mount pod that is gone, unless pods
// of the same unique id are left on any node.
func (n *Node) deleteSecret(ctx context.Context, client store.Client) error {
	if client.SecretName == "" {
		return nil
	}
	pods, err := n.parts.Client.CoreV1().Pods(n.options.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: mountpod.NameLabel + "=" + mountpod.NameValue,
	})
	if err != nil {
		return fmt.Errorf("list mount pods: %w", mountpod.Native(err))
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if container := mountContainer(pod); pod.Name != client.PodName && container != nil && secretOf(container) == client.SecretName {
			return nil
		}
	}
	err = n.parts.Client.CoreV1().Secrets(n.options.Namespace).Delete(ctx, client.SecretName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return fmt.Errorf("delete secret %s/%s: %w", n.options.Namespace, client.SecretName, mountpod.Native(err))
	}
	return nil
}
