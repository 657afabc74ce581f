{{/* dict root, kind: `digits-train` of a release digits, and of one digits-train as well. */}}
{{- define "msd-ray.jobName" -}}
{{- $name := include "msd-ray.name" .root -}}
{{ trimSuffix (printf "-%s" .kind) $name }}-{{ .kind }}
{{- end -}}

{{/* dict root, job (train or sweep), kind, entrypoint, file: what the head finds in /etc/msd-ray. A RayJobSpec. */}}
{{- define "msd-ray.jobSpec" -}}
{{- $root := .root -}}
{{- $volumes := list (dict "name" "input" "configMap" (dict "name" (include "msd-ray.jobName" .))) -}}
{{- $mounts := list (dict "name" "input" "mountPath" "/etc/msd-ray") -}}
entrypoint: {{ .entrypoint | quote }}
{{- if .job.suspend }}
suspend: true
{{- end }}
{{- if .job.clusterSelector }}
clusterSelector:
  ray.io/cluster: {{ .job.clusterSelector }}
{{- else }}
backoffLimit: {{ .job.backoffLimit }}
shutdownAfterJobFinishes: true
rayClusterSpec:
  {{- include "msd-ray.clusterSpec" (dict "root" $root "volumes" $volumes "mounts" $mounts) | nindent 2 }}
{{- end }}
ttlSecondsAfterFinished: {{ .job.keepSeconds }}
submissionMode: K8sJobMode
submitterPodTemplate:
  metadata:
    labels:
      {{- include "msd-ray.podLabels" (dict "root" $root "role" "submitter") | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "msd-ray.account" $root }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext:
      runAsNonRoot: true
      runAsUser: 1000
      runAsGroup: 1000
      fsGroup: 1000
      seccompProfile: {type: RuntimeDefault}
    {{- with $root.Values.image.pullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
    {{- end }}
    containers:
      - name: ray-job-submitter
        image: {{ include "msd-ray.image" $root | quote }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        env:
          - {name: HOME, value: /home/ray}
          - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        resources:
          requests: {cpu: 200m, memory: 512Mi}
          limits: {cpu: "1", memory: 1Gi}
        securityContext:
          {{- include "msd-ray.containerSecurity" $root | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: home, mountPath: /home/ray}
    volumes:
      - {name: tmp, emptyDir: {}}
      - {name: home, emptyDir: {}}
{{- end -}}

{{/* dict root, kind, name: labels of a job, its queue among them. */}}
{{- define "msd-ray.jobMetadata" -}}
name: {{ include "msd-ray.jobName" . }}
labels:
  {{- include "msd-ray.labels" .root | nindent 2 }}
  {{- with .root.Values.kueue.queue }}
  kueue.x-k8s.io/queue-name: {{ . }}
  {{- end }}
{{- end -}}

{{/* dict root, kind, job: why a job cannot be. */}}
{{- define "msd-ray.checkJob" -}}
{{- if and .job.clusterSelector .job.suspend -}}
{{- fail (printf "%s.suspend needs a cluster of its own: leave %s.clusterSelector empty" .kind .kind) -}}
{{- end -}}
{{- end -}}
