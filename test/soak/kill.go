package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// gentle is how many restarts of a container are left to kubelet, whose
// back-off grows with each; then its pod is replaced instead.
const gentle = 2

// kill ends something of a random node without warning.
func (s *soakRun) kill(ctx context.Context) error {
	node := s.cluster.Nodes()[s.random.IntN(len(s.cluster.Nodes()))].Name
	victims := []struct {
		name string
		end  func() error
	}{
		{"mountmgr", func() error { return s.killService(ctx, node, "juicefs-csi-mountmgr", "juicefs-mountmgr") }},
		{"node plugin", func() error { return s.killService(ctx, node, "juicefs-csi-node", "juicefs-csi-node") }},
		{"kubelet", func() error { return s.cluster.RestartKubelet(ctx, node) }},
		{"containerd", func() error { return s.cluster.RestartContainerd(ctx, node) }},
		{"mount pod", func() error { return s.deleteMountPod(ctx, node) }},
	}
	victim := victims[s.random.IntN(len(victims))]
	s.tally["killed "+victim.name]++
	s.say("killing %s of %s", victim.name, node)
	if err := victim.end(); err != nil {
		return fmt.Errorf("kill %s of %s: %w", victim.name, node, err)
	}
	return nil
}

// killService kills a process of the driver, or its whole pod once kubelet
// would wait before it starts the container again.
func (s *soakRun) killService(ctx context.Context, node, app, process string) error {
	pods, err := s.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app=" + app, FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if restarts(pod) >= gentle {
			zero := int64(0)
			return s.kube.CoreV1().Pods(local.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
		}
		pids, err := local.Processes(process, string(pod.UID))
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	return nil
}

func restarts(pod *corev1.Pod) int32 {
	most := int32(0)
	for _, status := range pod.Status.ContainerStatuses {
		most = max(most, status.RestartCount)
	}
	return most
}

// deleteMountPod deletes one of the node's mount pods as kubectl does.
func (s *soakRun) deleteMountPod(ctx context.Context, node string) error {
	pods, err := s.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=juicefs-mount", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil || len(pods.Items) == 0 {
		return err
	}
	victim := pods.Items[s.random.IntN(len(pods.Items))]
	return s.kube.CoreV1().Pods(local.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{})
}
