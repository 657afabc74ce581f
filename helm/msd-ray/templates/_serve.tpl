{{/* The gateway of a Serve config is where the pods are: the chart says it, whatever the config file says. */}}
{{- define "msd-ray.serveConfig" -}}
{{- $serve := .Values.serve -}}
{{- $config := fromYaml $serve.config -}}
{{- if or (not $serve.config) (hasKey $config "Error") (not (hasKey $config "applications")) -}}
{{- fail "serve.config is not what `msd-ray serve config ENSEMBLE` prints: write that to a file and give --set-file serve.config=FILE" -}}
{{- end -}}
{{- $tls := include "msd-ray.tlsSecret" . -}}
{{- $gateway := dict "host" "0.0.0.0" "port" $serve.grpcPort "http_port" $serve.httpPort "replicas" $serve.gateway.replicas "cpus" 0.0 "resource" "gateway" -}}
{{- $http := dict "host" "0.0.0.0" "port" $serve.httpPort -}}
{{- if $serve.tokensSecret -}}
{{- $_ := set $gateway "tokens" "/etc/msd-ray/tokens/tokens" -}}
{{- end -}}
{{- if $tls -}}
{{- $_ := merge $gateway (dict "tls_cert" "/etc/msd-ray/tls/tls.crt" "tls_key" "/etc/msd-ray/tls/tls.key") -}}
{{- $_ := merge $http (dict "ssl_certfile" "/etc/msd-ray/tls/tls.crt" "ssl_keyfile" "/etc/msd-ray/tls/tls.key") -}}
{{- end -}}
{{- if $serve.tls.clientCa -}}
{{- $_ := set $gateway "tls_client_ca" "/etc/msd-ray/tls/ca.crt" -}}
{{- $_ := set $config "proxy_location" "Disabled" -}}
{{- end -}}
{{- range $app := $config.applications -}}
{{- if hasKey $app.args "config" -}}
{{- $_ := set $app.args.config "gateway" (mergeOverwrite (dict) ($app.args.config.gateway | default dict) $gateway) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "http_options" $http -}}
{{ toYaml $config }}
{{- end -}}

{{- define "msd-ray.serveVolumes" -}}
{{- with .Values.serve.tokensSecret }}
- name: tokens
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with include "msd-ray.tlsSecret" . }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "msd-ray.serveMounts" -}}
{{- if .Values.serve.tokensSecret }}
- {name: tokens, mountPath: /etc/msd-ray/tokens, readOnly: true}
{{- end }}
{{- if include "msd-ray.tlsSecret" . }}
- {name: tls, mountPath: /etc/msd-ray/tls, readOnly: true}
{{- end }}
{{- end -}}
