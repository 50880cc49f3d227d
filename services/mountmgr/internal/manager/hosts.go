package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// Hosts are several hosts as one: clients are made by one of them, and each is
// asked for those that it has made, so that clients go on when the mount mode of
// the node is changed.
type Hosts struct {
	// Mode is that of new clients.
	Mode store.ClientMode
	// ByMode has a host for Mode, and may have others.
	ByMode map[store.ClientMode]Host
}

var _ Host = Hosts{}

func (h Hosts) of(client store.Client) (Host, error) {
	host := h.ByMode[client.Mode]
	if host == nil {
		return nil, fmt.Errorf("client %s runs in mount mode %q, which this mount manager does not have: %w",
			client.PodName, client.Mode, errdefs.ErrUnavailable)
	}
	return host, nil
}

// Create asks the host of new clients.
func (h Hosts) Create(ctx context.Context, spec mountpod.Spec) (string, error) {
	host, err := h.of(store.Client{Mode: h.Mode, PodName: spec.Name})
	if err != nil {
		return "", err
	}
	return host.Create(ctx, spec)
}

// Connect asks the host of the client.
func (h Hosts) Connect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	host, err := h.of(client)
	if err != nil {
		return nil, err
	}
	return host.Connect(ctx, client)
}

// Reconnect asks the host of the client.
func (h Hosts) Reconnect(ctx context.Context, client store.Client) (*launcher.Session, error) {
	host, err := h.of(client)
	if err != nil {
		return nil, err
	}
	return host.Reconnect(ctx, client)
}

// Delete asks the host of the client. Without one it ends the processes, as far
// as they were met.
func (h Hosts) Delete(ctx context.Context, client store.Client, grace time.Duration) error {
	host, err := h.of(client)
	if err != nil {
		return client.Launcher.AwaitEnd(ctx, grace)
	}
	return host.Delete(ctx, client, grace)
}

// Annotate asks the host of the client.
func (h Hosts) Annotate(ctx context.Context, client store.Client, annotations map[string]*string) error {
	if client.Mode == store.ModeClassic {
		client.Mode = store.ModePod // They differ for their clients alone.
	}
	host, err := h.of(client)
	if err != nil {
		return err
	}
	return host.Annotate(ctx, client, annotations)
}

// Watch watches all hosts until ctx ends or one of them fails.
func (h Hosts) Watch(ctx context.Context, changed, removed func(*corev1.Pod)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(h.ByMode))
	for _, host := range h.ByMode {
		go func() { ended <- host.Watch(ctx, changed, removed) }()
	}
	var failed error
	for range h.ByMode {
		failed = errors.Join(failed, <-ended)
		cancel()
	}
	return failed
}

// stray is the client of a pod that no mount has.
func stray(pod *corev1.Pod) store.Client {
	return store.Client{
		Mode: store.ClientMode(pod.Labels[mountpod.ModeLabel]), PodName: pod.Name, PodUID: string(pod.UID),
	}
}

// nameOf names a client, in a pod or without one, for people.
func nameOf(pod *corev1.Pod) string {
	if store.ClientMode(pod.Labels[mountpod.ModeLabel]) == store.ModeProcess {
		return "client " + pod.Name
	}
	return "mount pod " + pod.Namespace + "/" + pod.Name
}
