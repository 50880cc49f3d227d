package nodetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// Namespace is where the mount pods of the node are.
const Namespace = "kube-system"

// Kubelet runs the pods of a fake API server.
type Kubelet struct {
	// Client is the fake API server.
	Client *fake.Clientset
	// Dir is the kubelet directory: pods/<uid>/volumes/...
	Dir string

	tb   testing.TB
	bin  map[string]string
	log  *os.File
	uids atomic.Int64

	// starts are the pods that are being started.
	starts sync.WaitGroup

	mu      sync.Mutex
	pods    map[string]*exec.Cmd
	stuck   map[string]bool
	stopped bool
	refuse  Refusal

	// changes makes one of reading and writing a pod, as the API server's
	// resource versions do.
	changes sync.Mutex
}

// Refusal gives the status of a pod that is not started now, nil to start it;
// a pod whose phase is Failed is not tried again. attempt counts from 0.
type Refusal func(pod *corev1.Pod, attempt int) *corev1.PodStatus

// Refuse asks refusal before each start of a pod; nil starts all.
func (k *Kubelet) Refuse(refusal Refusal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = refusal
}

// refused reports a pod that is not to be started, and tries again until it is.
func (k *Kubelet) refused(pod *corev1.Pod) bool {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for attempt := 0; ; attempt++ {
		k.mu.Lock()
		refusal, stopped := k.refuse, k.stopped
		k.mu.Unlock()
		if stopped {
			return true
		}
		if refusal == nil {
			return false
		}
		status := refusal(pod.DeepCopy(), attempt)
		if status == nil {
			return false
		}
		if !k.SetStatus(pod, *status) || status.Phase == corev1.PodFailed {
			return true
		}
		<-ticker.C
	}
}

// SetStatus reports the status of a pod; false when there is no such pod.
func (k *Kubelet) SetStatus(pod *corev1.Pod, status corev1.PodStatus) bool {
	k.changes.Lock()
	defer k.changes.Unlock()
	present, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, pod.Name)
	found, ok := present.(*corev1.Pod)
	if err != nil || !ok || found.UID != pod.UID {
		return false // It is gone.
	}
	changed := found.DeepCopy()
	changed.Status = status
	return k.Client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), changed, changed.Namespace) == nil
}

// NewKubelet starts a kubelet on dir. juicefs maps image names to the client
// binary that the image holds. It stops with the test.
func NewKubelet(tb testing.TB, dir string, juicefs map[string]string) *Kubelet {
	tb.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "pods.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	k := &Kubelet{Client: fake.NewClientset(), Dir: dir, tb: tb, bin: juicefs, log: log}
	k.pods, k.stuck = make(map[string]*exec.Cmd), make(map[string]bool)
	k.Client.PrependReactor("create", "pods", k.create)
	k.Client.PrependReactor("delete", "pods", k.deleteGracefully)
	tb.Cleanup(func() {
		k.killAll()
		_ = log.Close()
	})
	return k
}

// create gives a pod its uid and runs it, as API server and kubelet do.
func (k *Kubelet) create(action clienttesting.Action) (bool, runtime.Object, error) {
	created, ok := action.(clienttesting.CreateAction)
	if !ok {
		return false, nil, nil
	}
	if pod, ok := created.GetObject().(*corev1.Pod); ok {
		pod.UID = types.UID("pod-" + strconv.FormatInt(k.uids.Add(1), 10))
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.stopped {
			run := pod.DeepCopy()
			k.starts.Go(func() { k.run(run) })
		}
	}
	return false, nil, nil
}

// deleteGracefully does what the API server and kubelet do together: a pod
// with a grace period gets a deletion timestamp and SIGTERM, and goes when its
// process has ended or the grace period is over.
func (k *Kubelet) deleteGracefully(action clienttesting.Action) (bool, runtime.Object, error) {
	deleted, ok := action.(clienttesting.DeleteAction)
	if !ok {
		return false, nil, nil
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	object, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), deleted.GetNamespace(), deleted.GetName())
	if err != nil {
		return true, nil, err
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return false, nil, nil
	}
	if k.isStuck(string(pod.UID)) {
		return true, nil, k.setDeleted(pod, time.Now().Add(-stuckFor))
	}
	grace := deleted.GetDeleteOptions().GracePeriodSeconds
	if grace == nil {
		grace = pod.Spec.TerminationGracePeriodSeconds
	}
	if grace == nil || *grace == 0 {
		k.kill(string(pod.UID))
		return false, nil, nil
	}
	if err := k.setDeleted(pod, time.Now()); err != nil {
		return true, nil, err
	}
	go k.terminate(pod.DeepCopy(), time.Duration(*grace)*time.Second)
	return true, nil, nil
}

func (k *Kubelet) setDeleted(pod *corev1.Pod, at time.Time) error {
	terminating := pod.DeepCopy()
	terminating.DeletionTimestamp = &metav1.Time{Time: at}
	return k.Client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), terminating, terminating.Namespace)
}

// stuckFor is how long ago the deletion of a stuck pod was asked for.
const stuckFor = 3 * time.Minute

// Stick makes a pod one that does not go when it is deleted: it looks as if
// that had been asked for a while ago.
func (k *Kubelet) Stick(uid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stuck[uid] = true
}

func (k *Kubelet) isStuck(uid string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stuck[uid]
}

func (k *Kubelet) terminate(pod *corev1.Pod, grace time.Duration) {
	k.Signal(string(pod.UID), syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for k.Running(string(pod.UID)) && ctx.Err() == nil {
		<-ticker.C
	}
	k.kill(string(pod.UID))
	err := k.Client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, pod.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		k.say("delete pod:", err)
	}
}

// run waits for the API server to have the pod, as kubelet sees none before,
// makes its root file system and starts its container. A pod that is deleted
// meanwhile does not stay.
func (k *Kubelet) run(pod *corev1.Pod) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for range 10_000 {
		if k.exists(pod) {
			break
		}
		<-ticker.C
	}
	if !k.exists(pod) || k.refused(pod) {
		return
	}
	if err := k.start(pod); err != nil {
		k.say("run pod", pod.Name, ":", err)
		k.fail(pod, err)
	}
	if !k.exists(pod) {
		k.kill(string(pod.UID))
	}
}

func (k *Kubelet) exists(pod *corev1.Pod) bool {
	present, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, pod.Name)
	found, ok := present.(*corev1.Pod)
	return err == nil && ok && found.UID == pod.UID
}

func (k *Kubelet) start(pod *corev1.Pod) error {
	container := pod.Spec.Containers[0]
	client, known := k.bin[container.Image]
	if !known {
		return fmt.Errorf("image %s is not there", container.Image)
	}
	root, err := k.rootFS(pod, client)
	if err != nil {
		return err
	}
	return k.startContainer(pod, root)
}

func (k *Kubelet) startContainer(pod *corev1.Pod, root string) error {
	env, err := k.environment(pod)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return nil
	}
	cmd, err := startPod(podProcess{
		root: root, user: user(pod), shared: sharedDirectory(pod, root), argv: pod.Spec.Containers[0].Command, env: env,
	}, k.log)
	if err != nil {
		return err
	}
	k.pods[string(pod.UID)] = cmd
	k.starts.Go(func() { k.await(pod, root, cmd) })
	return nil
}

// await follows a container: it is started again where the pod says so.
func (k *Kubelet) await(pod *corev1.Pod, root string, cmd *exec.Cmd) {
	failed := cmd.Wait()
	k.mu.Lock()
	delete(k.pods, string(pod.UID))
	k.mu.Unlock()
	if failed != nil && pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && k.wanted(pod) {
		if err := k.startContainer(pod, root); err != nil {
			k.say("restart pod", pod.Name, ":", err)
		}
		return
	}
	k.end(pod, failed)
}

// wanted tells whether the pod is still there and not being deleted.
func (k *Kubelet) wanted(pod *corev1.Pod) bool {
	object, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), pod.Namespace, pod.Name)
	present, isPod := object.(*corev1.Pod)
	return err == nil && isPod && present.UID == pod.UID && present.DeletionTimestamp == nil
}

func (k *Kubelet) end(pod *corev1.Pod, failed error) {
	if failed == nil {
		k.report(pod, corev1.PodSucceeded, "Completed", "container ended")
		return
	}
	k.fail(pod, errors.New("container ended"))
}

// environment reads the variables of the container, those of its Secret too.
func (k *Kubelet) environment(pod *corev1.Pod) ([]string, error) {
	var env []string
	for _, source := range pod.Spec.Containers[0].EnvFrom {
		object, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("secrets"), pod.Namespace, source.SecretRef.Name)
		if err != nil {
			return nil, err
		}
		if secret, ok := object.(*corev1.Secret); ok {
			for key, value := range secret.Data {
				env = append(env, key+"="+string(value))
			}
		}
	}
	for _, variable := range pod.Spec.Containers[0].Env {
		env = append(env, variable.Name+"="+variable.Value)
	}
	return env, nil
}

// writeSecrets fills the volumes that show Secrets.
func (k *Kubelet) writeSecrets(pod *corev1.Pod, podDir string) error {
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret == nil {
			continue
		}
		object, err := k.Client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("secrets"), pod.Namespace, volume.Secret.SecretName)
		if err != nil {
			return err
		}
		secret, ok := object.(*corev1.Secret)
		dir := filepath.Join(podDir, "volumes", "kubernetes.io~empty-dir", volume.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil || !ok {
			return err
		}
		for _, item := range volume.Secret.Items {
			if err := os.WriteFile(filepath.Join(dir, item.Path), secret.Data[item.Key], 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// user is the uid of a pod's processes.
func user(pod *corev1.Pod) int64 {
	if security := pod.Spec.Containers[0].SecurityContext; security != nil && security.RunAsUser != nil {
		return *security.RunAsUser
	}
	return 0
}

// isPrivileged tells pods that see more than their volumes.
func isPrivileged(pod *corev1.Pod) bool {
	security := pod.Spec.Containers[0].SecurityContext
	return security != nil && security.Privileged != nil && *security.Privileged
}

// sharedDirectory is where mounts of a privileged pod propagate.
func sharedDirectory(pod *corev1.Pod, root string) string {
	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		if isPrivileged(pod) && mount.MountPropagation != nil && *mount.MountPropagation == corev1.MountPropagationBidirectional {
			return filepath.Join(root, mount.MountPath)
		}
	}
	return ""
}

// InPod tells whether a process is in a pod.
func (k *Kubelet) InPod(pid int, uid string) bool {
	namespace := func(pid int) string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		return link
	}
	own := k.PID(uid)
	return own != 0 && namespace(own) != "" && namespace(own) == namespace(pid)
}

// fail reports a container that has ended, as kubelet does for a pod that is
// not restarted.
func (k *Kubelet) fail(pod *corev1.Pod, cause error) {
	k.report(pod, corev1.PodFailed, "Error", cause.Error())
}

func (k *Kubelet) report(pod *corev1.Pod, phase corev1.PodPhase, reason, message string) {
	status := corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, Message: message}},
	}}}
	if !k.SetStatus(pod, status) {
		k.say("report pod", pod.Name, ": it is gone")
	}
}

func (k *Kubelet) say(words ...any) {
	_, _ = fmt.Fprintln(k.log, words...) // Only people read it, after a failure.
}

// Running tells whether the container of a pod runs.
func (k *Kubelet) Running(uid string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pods[uid] != nil
}

// PID is the process id of a pod's PID 1; 0 when it does not run.
func (k *Kubelet) PID(uid string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cmd := k.pods[uid]; cmd != nil {
		return cmd.Process.Pid
	}
	return 0
}

// Signal sends a signal to a pod's PID 1.
func (k *Kubelet) Signal(uid string, signal syscall.Signal) {
	if pid := k.PID(uid); pid != 0 {
		_ = syscall.Kill(pid, signal)
	}
}

// Kill ends a pod at once and returns when all its processes are gone.
func (k *Kubelet) Kill(uid string) {
	k.tb.Helper()
	k.kill(uid)
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for k.Running(uid) {
		select {
		case <-deadline.C:
			k.tb.Fatalf("pod %s does not end", uid)
		case <-ticker.C:
		}
	}
}

func (k *Kubelet) kill(uid string) { k.Signal(uid, syscall.SIGKILL) }

// killAll ends every pod and takes its root file system away.
func (k *Kubelet) killAll() {
	k.mu.Lock()
	k.stopped = true
	var running []string
	for uid := range k.pods {
		running = append(running, uid)
	}
	k.mu.Unlock()
	for _, uid := range running {
		k.Kill(uid)
	}
	k.starts.Wait()
	roots, _ := filepath.Glob(filepath.Join(k.Dir, "pods", "*", "root"))
	for _, root := range roots {
		unmountBelow(root)
	}
}
