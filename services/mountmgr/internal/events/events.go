// Package events tells people, by events of the Kubernetes API, what happened
// to the mounts that their pods use.
package events

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	kubeevents "k8s.io/client-go/tools/events"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// The reasons of events.
const (
	MountPodReplaced = "MountPodReplaced"
	Recovered        = "Recovered"
	// Upgrade is the reason that the existing driver has.
	Upgrade         = "Upgrade"
	MountLost       = "MountLost"
	Remounted       = "Remounted"
	MountFailed     = "MountFailed"
	RequestsRemoved = "RequestsRemoved"
	SpareFailed     = "SpareFailed"
)

const (
	// perSecond and burst bound the events of the node. Each one that cannot be
	// sent is tried again for two minutes, and so are not more than some
	// hundreds of them.
	perSecond, burst = 2, 60
	// podLimit bounds the application pods that are told of one change.
	podLimit = 25
	// noteLimit is that of events.k8s.io.
	noteLimit = 1024
)

// Options say what events are about.
type Options struct {
	// Node is the name of the node.
	Node string
	// Namespace is where its mount pods are.
	Namespace string
	// Controller is the program that tells, as events show it.
	Controller string
}

// Recorder records events. It never blocks: events that come too fast, or that
// the API server does not take for two minutes, are dropped. It is safe for
// concurrent use.
type Recorder struct {
	options     Options
	broadcaster kubeevents.EventBroadcaster
	recorder    kubeevents.EventRecorder
	limiter     *rate.Limiter
}

// New returns a recorder whose events are dropped until Run. The rate limit of
// client should be one of its own: events must not delay what mounts need.
func New(client kubernetes.Interface, options Options) *Recorder {
	broadcaster := kubeevents.NewBroadcaster(&kubeevents.EventSinkImpl{Interface: client.EventsV1()})
	r := newRecorder(broadcaster.NewRecorder(scheme.Scheme, options.Controller), options)
	r.broadcaster = broadcaster
	return r
}

func newRecorder(recorder kubeevents.EventRecorder, options Options) *Recorder {
	return &Recorder{options: options, recorder: recorder, limiter: rate.NewLimiter(perSecond, burst)}
}

// Run sends events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	if err := r.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("record events: %w", err)
	}
	<-ctx.Done()
	r.broadcaster.Shutdown()
	return nil
}

// Replaced tells that the client moved to another mount pod as it was planned;
// pause is how long nobody served, 0 when that is not known.
func (r *Recorder) Replaced(mount store.Record, pause time.Duration) {
	r.toUsers(mount, corev1.EventTypeNormal, MountPodReplaced, "Replace",
		fmt.Sprintf("mount pod %s has taken over %s%s", mount.Client.PodName, name(mount), waited(pause)))
}

// Recovered tells that a client that ended without warning was replaced; cause
// says how it ended, and pause is how long nobody served.
func (r *Recorder) Recovered(mount store.Record, cause string, pause time.Duration) {
	r.toUsers(mount, corev1.EventTypeWarning, Recovered, "Recover",
		fmt.Sprintf("%s serves again, by mount pod %s%s: %s", name(mount), mount.Client.PodName, waited(pause), cause))
}

// HandedOver tells that a client was upgraded; pause is as for Replaced.
func (r *Recorder) HandedOver(mount store.Record, pause time.Duration) {
	r.toUsers(mount, corev1.EventTypeNormal, Upgrade, "Upgrade",
		fmt.Sprintf("client of %s upgraded to %s (%s)%s", name(mount), mount.Client.Image, mount.Client.Version, waited(pause)))
}

// Lost tells that nobody can serve the mount any more.
func (r *Recorder) Lost(mount store.Record) {
	note := fmt.Sprintf("connection of %s is lost, files that were open on it answer with errors: %s: %s",
		name(mount), mount.Reason, mount.Message)
	r.toUsers(mount, corev1.EventTypeWarning, MountLost, "Abort", note)
	r.toNode(corev1.EventTypeWarning, MountLost, "Abort", note)
}

// Remounted tells that a lost mount was made anew.
func (r *Recorder) Remounted(mount store.Record) {
	r.toUsers(mount, corev1.EventTypeNormal, Remounted, "Remount",
		name(mount)+" is mounted again; files that were open at its loss have to be opened anew")
}

// Failed tells that the first client of a mount could not start.
func (r *Recorder) Failed(mount store.Record) {
	r.toUsers(mount, corev1.EventTypeWarning, MountFailed, "Mount", fmt.Sprintf("%s is not mounted: %s", name(mount), mount.Message))
}

// RequestsRemoved tells that a mount pod runs without resource requests, since
// the node has no room for them.
func (r *Recorder) RequestsRemoved(mount store.Record, cause string) {
	r.toUsers(mount, corev1.EventTypeWarning, RequestsRemoved, "Mount",
		fmt.Sprintf("mount pod %s of %s has no resource requests, the node has no room for them: %s", mount.Client.PodName, name(mount), cause))
}

// SpareFailed tells that no spare mount pod of an image is ready.
func (r *Recorder) SpareFailed(image string, cause error) {
	r.toNode(corev1.EventTypeWarning, SpareFailed, "Prepare",
		fmt.Sprintf("no mount pod of image %s waits for the next volume, which is mounted more slowly: %v", image, cause))
}

func name(mount store.Record) string { return "volume " + mount.UniqueID }

func waited(pause time.Duration) string {
	if pause <= 0 {
		return ""
	}
	return fmt.Sprintf(", nobody served it for %v", pause.Round(time.Millisecond))
}

// toUsers records an event on the mount pod and on the pods that use it.
func (r *Recorder) toUsers(mount store.Record, kind, reason, action, note string) {
	if mount.Client.PodName != "" {
		r.record(pod(r.options.Namespace, mount.Client.PodName, mount.Client.PodUID), kind, reason, action, note)
	}
	told := make(map[store.Pod]bool)
	for _, reference := range mount.References {
		user := reference.Pod
		if user.Name == "" || told[user] {
			continue // Kubelet tells the pod where the CSIDriver object asks for it.
		}
		if told[user] = true; len(told) > podLimit {
			return
		}
		r.record(pod(user.Namespace, user.Name, user.UID), kind, reason, action, note)
	}
}

// toNode records an event on the node, under the uid that kubelet uses, by
// which `kubectl describe node` finds it.
func (r *Recorder) toNode(kind, reason, action, note string) {
	node := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: r.options.Node, UID: types.UID(r.options.Node)}
	r.record(node, kind, reason, action, note)
}

func pod(namespace, name, uid string) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: types.UID(uid)}
}

func (r *Recorder) record(about *corev1.ObjectReference, kind, reason, action, note string) {
	if !r.limiter.Allow() {
		return
	}
	r.recorder.Eventf(about, nil, kind, reason, action, "%s", cut(note))
}

// cut bounds a note, at the end of a character.
func cut(note string) string {
	if len(note) <= noteLimit {
		return note
	}
	const more = "..."
	end := 0
	for index := range note {
		if index > noteLimit-len(more) {
			break
		}
		end = index
	}
	return note[:end] + more
}
