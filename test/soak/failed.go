package main

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// failed reports a worker that ended with an error, once: it is deleted then.
// One that stays is looked at again when its log cannot be read.
func (s *soakRun) failed(ctx context.Context, pod *corev1.Pod) {
	log, err := s.kube.CoreV1().Pods(s.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil && len(pod.Status.ContainerStatuses) > 0 && pod.DeletionTimestamp == nil {
		s.say("log of %s: %v", pod.Name, err)
		return
	}
	if endedBeforeItBegan(pod, log, err) {
		s.tally["pods deleted before they began"]++
	} else {
		s.fail("%s on %s (%s): %s\n%s%s", pod.Name, pod.Spec.NodeName, pod.Labels["volume"], log, status(pod), s.events(ctx, pod))
	}
	zero := int64(0)
	_ = s.kube.CoreV1().Pods(s.namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
}

// endedBeforeItBegan tells that a deleted worker was not there yet to hear
// SIGTERM: the kernel gives none to a first process that does not listen, so
// that kubelet kills it.
func endedBeforeItBegan(pod *corev1.Pod, log []byte, logError error) bool {
	if pod.DeletionTimestamp == nil || logError != nil || len(log) > 0 {
		return false
	}
	for i := range pod.Status.ContainerStatuses {
		ended := pod.Status.ContainerStatuses[i].State.Terminated
		if ended == nil || ended.ExitCode != 137 && ended.ExitCode != 143 {
			return false
		}
	}
	return len(pod.Status.ContainerStatuses) > 0
}

func status(pod *corev1.Pod) string {
	text, err := yaml.Marshal(map[string]any{"deletionTimestamp": pod.DeletionTimestamp, "status": pod.Status})
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// events are what the cluster says about a pod, one in a line.
func (s *soakRun) events(ctx context.Context, pod *corev1.Pod) string {
	list, err := s.kube.CoreV1().Events(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(pod.UID)})
	if err != nil {
		return err.Error()
	}
	var lines strings.Builder
	for i := range list.Items {
		event := &list.Items[i]
		fmt.Fprintf(&lines, "%s %s: %s\n", event.LastTimestamp.Format("15:04:05"), event.Reason, event.Message)
	}
	return lines.String()
}
