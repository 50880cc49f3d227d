package inventory

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Status is one word for the state of a pod, as kubectl prints it.
func Status(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "Terminating"
	}
	if pod.Status.Reason != "" {
		return pod.Status.Reason
	}
	if s := initStatus(pod); s != "" {
		return s
	}
	for i := range pod.Status.ContainerStatuses {
		if reason := stateReason(pod.Status.ContainerStatuses[i].State); reason != "" && reason != "Completed" {
			return reason
		}
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		return "Completed"
	}
	return string(pod.Status.Phase)
}

// initStatus is empty once the init containers are done; native sidecars count
// as done when they have started.
func initStatus(pod *corev1.Pod) string {
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		done := c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
		if done || sidecars[c.Name] && c.Started != nil && *c.Started {
			continue
		}
		if reason := stateReason(c.State); reason != "" && reason != "PodInitializing" {
			return "Init:" + reason
		}
		return fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
	}
	return ""
}

func stateReason(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Terminated != nil && s.Terminated.Reason != "":
		return s.Terminated.Reason
	case s.Terminated != nil && s.Terminated.Signal != 0:
		return fmt.Sprintf("Signal:%d", s.Terminated.Signal)
	case s.Terminated != nil:
		return fmt.Sprintf("ExitCode:%d", s.Terminated.ExitCode)
	default:
		return ""
	}
}

// Problem says for people why a pod does not run; it is empty for a pod that
// runs, has finished well, or is on its way without a fault.
func Problem(pod *corev1.Pod) string {
	if pod.Status.Phase == corev1.PodSucceeded {
		return ""
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if p := containerProblem(&list[i]); p != "" {
				return p
			}
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return join(pod.Status.Reason, pod.Status.Message, "the pod failed")
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return join(c.Reason, c.Message, "the pod is not scheduled")
		}
	}
	return ""
}

func containerProblem(c *corev1.ContainerStatus) string {
	switch w, t := c.State.Waiting, c.State.Terminated; {
	case t != nil && t.ExitCode != 0:
		return fmt.Sprintf("container %s: %s", c.Name, exitText(t))
	case w == nil || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" || w.Reason == "":
		return ""
	case c.LastTerminationState.Terminated != nil:
		return fmt.Sprintf("container %s: %s, last %s", c.Name, w.Reason, exitText(c.LastTerminationState.Terminated))
	default:
		return fmt.Sprintf("container %s: %s", c.Name, join(w.Reason, w.Message, "waiting"))
	}
}

func exitText(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += " (" + t.Reason + ")"
	}
	if m := strings.TrimSpace(t.Message); m != "" {
		text += ": " + m
	}
	return text
}

func join(reason, message, otherwise string) string {
	switch {
	case reason != "" && message != "":
		return reason + ": " + message
	case reason != "":
		return reason
	case message != "":
		return message
	default:
		return otherwise
	}
}
